//! Ending an epoch, copying another node's bytes, and cutting the log (DESIGN D2, D5).

use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::facts::Facts;
use super::segments::{FOLDER, Segment, path};
use super::{CommitLog, Slot, Staged};
use crate::disk::{Directory, SegmentFile, write_all_at};
use crate::error::{Failure, ReadError};
use crate::log::AppendError;
use crate::orphans::CutReason;
use crate::state::{self, Cut, StateFile};
use crate::{Epoch, PhysicalOffset};

/// Where cut ranges are kept, one file each, the range's bytes at their place in the segment.
pub(crate) const ORPHANS: &str = crate::orphans::FOLDER;
/// Where the kept prefix of a segment is copied before it takes the segment's name.
const REPLACEMENT: &str = "staticfire/replacement";
/// Bytes copied at a time.
const COPY_BYTES: u64 = 1 << 20;

impl CommitLog {
    /// Ends the current epoch: from here on nothing is accepted, everybody who still waits learns
    /// [`crate::Outcome::Unknown`], and `epoch` is the current one. Reservations made before and
    /// not yet published still belong to the log; [`CommitLog::final_end`] waits for them.
    ///
    /// # Panics
    /// When `epoch` is not above the current one.
    pub(crate) fn fence(&self, epoch: Epoch) {
        let mut head = self.head();
        head.accepting = false;
        head.epoch = epoch;
        self.marks.begin_epoch(epoch);
    }

    /// Where the fenced log ends, once every reservation was published and written.
    pub(crate) fn final_end(&self) -> Option<PhysicalOffset> {
        self.write();
        let head = self.head();
        (head.slots.is_empty() && head.end == self.marks.written()).then_some(head.end)
    }

    /// Accepts appends in the epoch for which the log was fenced.
    pub(crate) fn open_epoch(&self) {
        self.head().accepting = true;
    }

    /// It has producers of its own.
    pub(crate) fn is_accepting(&self) -> bool {
        self.head().accepting
    }

    /// The bytes from `from` up to `to`, one slice for each segment.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(crate) fn slices(&self, from: PhysicalOffset, to: PhysicalOffset) -> Result<Vec<Bytes>, ReadError> {
        let marks = self.marks.snapshot();
        if from < marks.min || to > marks.written {
            return Err(ReadError::OutOfRange { at: from, min: marks.min, end: marks.written });
        }
        let mut slices = Vec::new();
        let mut at = from;
        while at < to {
            let upto = self.segment_end(at).min(to);
            let bytes = self.segments.read(at.0..upto.0).ok_or(ReadError::NoRecord { at })?;
            slices.push(bytes.map_err(|error| ReadError::io(at, &error))?);
            at = upto;
        }
        Ok(slices)
    }

    /// Takes bytes that another node appended at `at`, which must be the end of this log. They may
    /// be cut anywhere; a range may cross segments. Nothing is numbered and nothing is checked:
    /// the caller has checked the frame, and dispatch reads every record.
    ///
    /// # Errors
    /// [`AppendError`]; [`AppendError::NotAtEnd`] when the log is not fenced (it has its own
    /// producers then) or does not end at `at`.
    pub(crate) fn append_raw(&self, mut at: PhysicalOffset, mut bytes: &[u8]) -> Result<(), AppendError> {
        while !bytes.is_empty() {
            if self.head().end == at {
                self.create_missing_segment(at)?;
            }
            let mut head = self.head();
            if head.accepting || head.end != at {
                return Err(AppendError::NotAtEnd { at, end: head.end, open: head.accepting });
            }
            if let Some(failure) = self.failure() {
                return Err(AppendError::Failed(failure.clone()));
            }
            let segment = self.options.segment_bytes;
            let room = usize::try_from(segment - at.0 % segment).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            let len = now.len() as u64;
            head.slots.push_back(Slot { start: at, len, published: Some(Staged::raw(now.to_vec())) });
            head.staged += len;
            at = at.after(len);
            head.end = at;
            head.facts = Facts::from(at);
            let end = head.extend_published();
            self.marks.appended(end);
            bytes = later;
        }
        Ok(())
    }

    /// Cuts the fenced log at `to`, the end of a record, keeping what stood above as an orphan.
    /// Durable when it returns. The caller has made sure that nothing reads queues above `to`.
    ///
    /// # Errors
    /// The system's error; the cut is then finished by the next open, and the log has failed.
    ///
    /// # Panics
    /// When the log is not fenced, or `to` lies below `confirmed`.
    pub(crate) fn truncate(
        &self,
        to: PhysicalOffset,
        reason: CutReason,
        file: &mut StateFile,
    ) -> io::Result<()> {
        let epoch = {
            let head = self.head();
            assert!(!head.accepting && head.slots.is_empty(), "only a fenced and written log is cut");
            assert!(to >= self.marks.confirmed(), "a cut at {to} would take back confirmed bytes");
            head.epoch
        };
        let cut = Cut { end: to, epoch, reason };
        self.carry_out(cut, file).inspect_err(|error| {
            // Files and marks may disagree from here on; the next open finishes the cut.
            let error = io::Error::new(error.kind(), error.to_string());
            self.fail(Failure::cut(error));
        })
    }

    /// Empties a fenced log and lets it begin at `base`, the start of a segment; the marks are moved by
    /// the caller. What it held becomes an orphan. Done again when the machine failed half way: nothing of
    /// the old log is relied on.
    ///
    /// # Errors
    /// The system's error; the log has failed.
    pub(crate) fn restart(&self, base: PhysicalOffset, file: &mut StateFile) -> io::Result<()> {
        let min = self.marks.snapshot().min;
        let gone =
            state::State { durable: PhysicalOffset(0), queues_complete: PhysicalOffset(0), ..file.state() };
        let emptied = file.write(gone).and_then(|()| self.truncate(min, CutReason::BegunAnew, file));
        emptied.and_then(|()| self.begin_at(base, file)).inspect_err(|error| {
            let error = io::Error::new(error.kind(), error.to_string());
            self.fail(Failure::cut(error));
        })
    }

    /// An empty log goes on at `base`.
    fn begin_at(&self, base: PhysicalOffset, file: &mut StateFile) -> io::Result<()> {
        let _one = self.rolling.lock().unwrap_or_else(PoisonError::into_inner);
        for segment in self.segments.all().into_iter().filter(|segment| segment.start != base) {
            self.segments.forget(segment.start);
            self.directory.remove(&path(segment.start))?;
        }
        match self.segments.find(base) {
            Some(_) => self.directory.sync(FOLDER)?,
            None => self.segments.create(base)?,
        }
        // With its length: a file of length 0 would be taken for one that was never used.
        self.segments.find(base).map_or(Ok(()), |segment| segment.file.sync())?;
        file.write(state::State { durable: base, queues_complete: base, ..file.state() })?;
        let mut head = self.head();
        (head.end, head.segment, head.facts) = (base, None, Facts::from(base));
        Ok(())
    }

    fn carry_out(&self, cut: Cut, file: &mut StateFile) -> io::Result<()> {
        let _one = self.rolling.lock().unwrap_or_else(PoisonError::into_inner);
        let to = cut.end;
        let mut state = file.state();
        state.cut = Some(cut);
        state.durable = state.durable.min(to);
        state.queues_complete = state.queues_complete.min(to);
        file.write(state)?;
        self.remove_unused_segments()?;
        let kept = finish_cut(&*self.directory, &self.segments.all(), cut, self.options.segment_bytes)?;
        file.write(state::State { cut: None, ..state })?;
        for segment in self.segments.all().into_iter().filter(|segment| segment.end() > to) {
            self.segments.forget(segment.start);
        }
        kept.into_iter().for_each(|segment| self.segments.insert(segment));
        let mut head = self.head();
        (head.end, head.segment, head.facts) = (to, None, Facts::from(to));
        drop(head);
        self.marks.cut(to);
        Ok(())
    }

    fn create_missing_segment(&self, at: PhysicalOffset) -> Result<(), AppendError> {
        match self.segments.find(at) {
            Some(_) => Ok(()),
            None => self.create_segment(PhysicalOffset(
                at.0 / self.options.segment_bytes * self.options.segment_bytes,
            )),
        }
    }
}

/// Carries a decided cut out, from whatever point an earlier attempt reached: moves later segments
/// to the orphans and replaces the segment that holds the end by a fresh file with
/// the kept prefix, so that slices handed out from the old one never change. Gives the fresh one.
pub(crate) fn finish_cut(
    directory: &dyn Directory,
    segments: &[Segment],
    cut: Cut,
    segment_bytes: u64,
) -> io::Result<Option<Segment>> {
    make_orphans(directory)?;
    // What is cut was perhaps never flushed; as an orphan it shall survive.
    for segment in segments.iter().filter(|segment| segment.end() > cut.end) {
        segment.file.sync()?;
    }
    let later = segments.iter().filter(|segment| segment.start >= cut.end);
    let holds_end = |segment: &&Segment| segment.start < cut.end && cut.end < segment.end();
    let holder = segments.iter().find(holds_end);
    let fresh = match holder {
        Some(old) => Some(prefix(directory, old, cut.end.0 - old.start.0, segment_bytes)?),
        None => None,
    };
    // The orphans have durable names of their own before the log loses its names for them.
    for segment in later.clone() {
        link(directory, segment, &orphan(cut.epoch, segment.start, cut.reason))?;
    }
    if let Some(old) = holder {
        link(directory, old, &orphan(cut.epoch, cut.end, cut.reason))?;
    }
    directory.sync(ORPHANS)?;
    for segment in later.rev() {
        directory.remove(&path(segment.start))?;
    }
    if let Some(old) = holder {
        directory.rename(REPLACEMENT, &path(old.start))?;
    }
    directory.sync(FOLDER)?;
    Ok(holder.zip(fresh).map(|(old, file)| Segment { start: old.start, file }))
}

/// Gives the file of `segment` a name among the orphans, unless an earlier attempt did.
fn link(directory: &dyn Directory, segment: &Segment, orphan: &str) -> io::Result<()> {
    match directory.link(&path(segment.start), orphan) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

/// The folder's own name must be durable before an orphan is the only copy of anything.
fn make_orphans(directory: &dyn Directory) -> io::Result<()> {
    directory.make_directory(ORPHANS)?;
    directory.sync(state::FOLDER)
}

/// Gives a segment whose file is too short its whole length, with zeros behind what it holds. The
/// new name is not durable yet.
pub(crate) fn lengthen(directory: &dyn Directory, old: &Segment, segment_bytes: u64) -> io::Result<Segment> {
    directory.make_directory(state::FOLDER)?;
    let fresh = prefix(directory, old, old.file.len(), segment_bytes)?;
    directory.rename(REPLACEMENT, &path(old.start))?;
    Ok(Segment { start: old.start, file: fresh })
}

/// A fresh file with the first `len` bytes of `old`, durable but for its name.
fn prefix(
    directory: &dyn Directory,
    old: &Segment,
    len: u64,
    segment_bytes: u64,
) -> io::Result<Arc<dyn SegmentFile>> {
    remove_if_there(directory, REPLACEMENT)?;
    let fresh = directory.create(REPLACEMENT, segment_bytes)?;
    fresh.allocate(0..segment_bytes)?;
    copy(&*old.file, &*fresh, 0..len)?;
    fresh.sync()?;
    Ok(fresh)
}

/// Copies a range from one file to the same place in another.
pub(crate) fn copy(from: &dyn SegmentFile, to: &dyn SegmentFile, range: Range<u64>) -> io::Result<()> {
    let mut at = range.start;
    let mut buffer = vec![0; COPY_BYTES.min(range.end.saturating_sub(range.start)) as usize];
    while at < range.end {
        let next = (at + COPY_BYTES).min(range.end);
        from.read_into(at, &mut buffer[..(next - at) as usize])?;
        write_all_at(to, at, &buffer[..(next - at) as usize])?;
        at = next;
    }
    Ok(())
}

/// Writes again what stands in a range of a file. What a killed process wrote may be in memory only, and
/// after a failed flush even pages that look clean may not be on the disk.
pub(crate) fn rewrite(file: &dyn SegmentFile, range: Range<u64>) -> io::Result<()> {
    let mut at = range.start;
    while let Some(from) = file.next_data(at)?.filter(|from| *from < range.end) {
        at = file.next_hole(from)?.min(range.end);
        copy(file, file, from..at)?;
    }
    Ok(())
}

/// Takes whole segments out of the log, newest first: kept as orphans where they hold anything
/// below `holding`, removed where they were only made ahead of time.
pub(crate) fn move_to_orphans(
    directory: &dyn Directory,
    segments: &[Segment],
    epoch: Epoch,
    holding: Option<PhysicalOffset>,
) -> io::Result<()> {
    if segments.is_empty() {
        return Ok(());
    }
    make_orphans(directory)?;
    for segment in segments.iter().filter(|segment| holding.is_some_and(|end| segment.start < end)) {
        rewrite(&*segment.file, 0..segment.file.len())?;
        segment.file.sync()?;
        link(directory, segment, &free_orphan(directory, epoch, segment.start)?)?;
    }
    directory.sync(ORPHANS)?;
    // The log's own folder is synced by whoever goes on with the log.
    segments.iter().rev().try_for_each(|segment| directory.remove(&path(segment.start)))
}

fn remove_if_there(directory: &dyn Directory, path: &str) -> io::Result<()> {
    match directory.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn orphan(epoch: Epoch, at: PhysicalOffset, reason: CutReason) -> String {
    format!("{ORPHANS}/{epoch:020}-{at:020}-{reason}", epoch = epoch.0, at = at.0)
}

/// A name that no orphan has, for the end that a crash left: several crashes may cut at the same place in one epoch.
fn free_orphan(directory: &dyn Directory, epoch: Epoch, at: PhysicalOffset) -> io::Result<String> {
    let taken = directory.list(ORPHANS)?;
    let name = orphan(epoch, at, CutReason::Torn);
    let is_free = |name: &String| !taken.iter().any(|entry| name.ends_with(&format!("/{}", entry.name)));
    let names = std::iter::once(name.clone()).chain((1_u64..).map(|n| format!("{name}-{n}")));
    Ok(names.into_iter().find(is_free).expect("a directory has fewer than 2^64 entries"))
}

/// Keeps a copy of the bytes in `range` of `segment` as an orphan, for damage found at the tail. It
/// gets its name once it is whole: a recovery that was crashed must not take its half-made copy, or
/// a copy of what it had zeroed already, for the orphan.
pub(crate) fn keep_orphan(
    directory: &dyn Directory,
    segment: &Segment,
    range: Range<u64>,
    epoch: Epoch,
) -> io::Result<()> {
    make_orphans(directory)?;
    remove_if_there(directory, REPLACEMENT)?;
    let len = range.end - range.start;
    let copy: Arc<dyn SegmentFile> = directory.create(REPLACEMENT, len)?;
    let mut at = 0;
    // Not through a mapping: what cannot be read shall be an error here.
    let mut buffer = vec![0; COPY_BYTES.min(len) as usize];
    while at < len {
        let next = (at + COPY_BYTES).min(len);
        let piece = &mut buffer[..(next - at) as usize];
        segment.file.read_into(range.start + at, piece)?;
        write_all_at(&*copy, at, piece)?;
        at = next;
    }
    copy.sync()?;
    let at = PhysicalOffset(segment.start.0 + range.start);
    directory.rename(REPLACEMENT, &free_orphan(directory, epoch, at)?)?;
    directory.sync(ORPHANS)
}
