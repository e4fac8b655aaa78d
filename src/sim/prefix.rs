//! The log after a crash is a prefix of the log before it, byte for byte.

use std::collections::BTreeMap;

use staticfire_storage::Store;
use staticfire_storage::disk::SimulatedDisk;

use super::Violation;

const LOG: &str = "commitlog/";
const ORPHANS: &str = "staticfire/orphans/";

/// The commit log as a dying process saw it.
#[derive(Debug, Default)]
pub(super) struct Shadow {
    /// The bytes of each segment, by its first position.
    segments: BTreeMap<u64, Vec<u8>>,
    orphans: usize,
}

impl Shadow {
    pub(super) fn of(disk: &SimulatedDisk) -> Self {
        Self { segments: segments(disk), orphans: orphans(disk) }
    }
}

fn orphans(disk: &SimulatedDisk) -> usize {
    disk.paths().iter().filter(|path| path.starts_with(ORPHANS)).count()
}

fn segments(disk: &SimulatedDisk) -> BTreeMap<u64, Vec<u8>> {
    let paths = disk.paths();
    let segment = |path: &String| {
        let start = path.strip_prefix(LOG)?.parse().ok()?;
        Some((start, disk.contents(path).ok()?))
    };
    paths.iter().filter_map(segment).collect()
}

/// proves: I4, I5: what was recovered is what had been appended, up to some place.
/// A node that copies may have cut its log since, and taken other bytes.
pub(super) fn check(
    store: &Store,
    disk: &SimulatedDisk,
    shadow: &Shadow,
    copies: bool,
) -> Result<(), Violation> {
    if copies && orphans(disk) > shadow.orphans {
        return Ok(());
    }
    let end = store.report().log.end.0;
    for (start, found) in segments(disk) {
        let Some(before) = shadow.segments.get(&start) else {
            if end > start {
                let what =
                    format!("the log ends at {end}, and there was no segment {start} before the crash");
                return Err(Violation::new("I4", what));
            }
            continue;
        };
        let len = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        let len = len.min(found.len()).min(before.len());
        if let Some(at) = (0..len).find(|at| found[*at] != before[*at]) {
            let what = format!(
                "byte {} of the recovered log, which ends at {end}, is not what was there before the crash",
                start + at as u64
            );
            return Err(Violation::new("I4", what));
        }
    }
    Ok(())
}
