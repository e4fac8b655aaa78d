//! Finds the files of all queues, and makes their lengths right, before anything is read from them.

use std::collections::BTreeMap;
use std::io;

use super::entry::Layout;
use super::sums;
use super::{QueueError, QueueOptions};
use crate::disk::{Directory, DirectoryEntry, EntryKind, write_all_at};
use crate::{QueueId, TopicName};

/// Where a short file is made whole before it takes its name.
const REPAIR: &str = "staticfire/repair";

/// The files of one queue.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) topic: TopicName,
    pub(super) id: QueueId,
    pub(super) layout: Layout,
    /// First slots of the files, in order.
    pub(super) starts: Vec<u64>,
    /// First slot of the oldest file that was too short.
    pub(super) short_from: Option<u64>,
    /// First slot of the oldest file that has sums and does not exist, in front of the files that do.
    pub(super) missing_before: Option<u64>,
    /// The same, behind the oldest file that exists.
    pub(super) missing_from: Option<u64>,
    /// Files of sums without their queue file, by first slot. They go when the queue was rebuilt,
    /// not earlier: they are the evidence that a file is missing.
    pub(super) orphans: Vec<(u64, String)>,
}

/// Everything in the folders of the queues.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) queues: Vec<Found>,
    /// Paths that no queue of RocketMQ or of ours has; left alone.
    pub(super) strangers: Vec<String>,
}

/// A queue file: its path, the first slot in it, its length.
struct QueueFile {
    path: String,
    start: u64,
    len: u64,
}

/// Lists the queues of the store. Empty files at the end of a queue are removed and short ones
/// filled up with zeros; files that are too long, or all too short, mean that the options are wrong.
pub(super) fn list(directory: &dyn Directory, options: &QueueOptions) -> Result<Listing, QueueError> {
    let mut listing = Listing::default();
    for layout in [Layout::Single, Layout::Batch] {
        let file_bytes = options.file_bytes(layout);
        let mut queues = BTreeMap::new();
        walk(directory, layout.folder(), file_bytes, layout, &mut queues, &mut listing.strangers)?;
        check_lengths(queues.values().flatten(), file_bytes)?;
        let sums_of = sums::path(layout.folder());
        let mut with_sums = BTreeMap::new();
        walk(directory, &sums_of, file_bytes, layout, &mut with_sums, &mut listing.strangers)?;
        for key in with_sums.keys() {
            queues.entry(key.clone()).or_default();
        }
        for ((topic, id), files) in queues {
            let sums = with_sums.remove(&(topic.clone(), id)).unwrap_or_default();
            let mut found = Found::new(topic, id, layout);
            found.take(directory, files, file_bytes)?;
            found.compare(directory, &sums)?;
            if !found.starts.is_empty() || found.missing_from.is_some() {
                listing.queues.push(found);
            }
        }
    }
    Ok(listing)
}

type Files = BTreeMap<(TopicName, QueueId), Vec<QueueFile>>;

/// Walks `<folder>/<topic>/<queue>/<file>`.
fn walk(
    directory: &dyn Directory,
    folder: &str,
    file_bytes: u64,
    layout: Layout,
    queues: &mut Files,
    strangers: &mut Vec<String>,
) -> Result<(), QueueError> {
    for topic_entry in list_folder(directory, folder)? {
        let topic_path = format!("{folder}/{}", topic_entry.name);
        let topic =
            TopicName::new(&topic_entry.name).ok().filter(|_| topic_entry.kind == EntryKind::Directory);
        let Some(topic) = topic else {
            strangers.push(topic_path);
            continue;
        };
        for queue_entry in list_folder(directory, &topic_path)? {
            let path = format!("{topic_path}/{}", queue_entry.name);
            let id = queue_id(&queue_entry.name).filter(|_| queue_entry.kind == EntryKind::Directory);
            let Some(id) = id else {
                strangers.push(path);
                continue;
            };
            let files = queues.entry((topic.clone(), id)).or_default();
            for file in list_folder(directory, &path)? {
                let path = format!("{path}/{}", file.name);
                match start_of(&file, &path, file_bytes, layout)? {
                    Some(start) => files.push(QueueFile { path, start, len: file.len }),
                    None => strangers.push(path),
                }
            }
        }
    }
    Ok(())
}

/// The first slot of a queue file; `None` when it is none by its name.
fn start_of(
    file: &DirectoryEntry,
    path: &str,
    file_bytes: u64,
    layout: Layout,
) -> Result<Option<u64>, QueueError> {
    let is_name = file.name.len() == 20 && file.name.bytes().all(|byte| byte.is_ascii_digit());
    let start = file.name.parse::<u64>().ok().filter(|start| is_name && i64::try_from(*start).is_ok());
    let Some(start) = start.filter(|_| file.kind == EntryKind::File) else { return Ok(None) };
    if start % file_bytes != 0 {
        return Err(QueueError::FileName { path: path.to_owned(), expected: file_bytes });
    }
    Ok(Some(start / layout.width() as u64))
}

/// The number of a queue, as a folder is named by it.
fn queue_id(name: &str) -> Option<QueueId> {
    let id = QueueId(name.parse().ok()?);
    (id <= QueueId::MAX && id.to_string() == name).then_some(id)
}

fn list_folder(directory: &dyn Directory, folder: &str) -> Result<Vec<DirectoryEntry>, QueueError> {
    match directory.list(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|error| QueueError::io(folder, error)),
    }
}

/// A file that is too long, or no file of the right length beside short ones, was made with another
/// setting: nothing may be touched then.
fn check_lengths<'a>(
    files: impl Iterator<Item = &'a QueueFile> + Clone,
    expected: u64,
) -> Result<(), QueueError> {
    let whole = files.clone().any(|file| file.len == expected);
    let wrong = files
        .filter(|file| file.len != 0)
        .find(|file| file.len > expected || (file.len < expected && !whole));
    match wrong {
        Some(file) => Err(QueueError::FileLength { path: file.path.clone(), found: file.len, expected }),
        None => Ok(()),
    }
}

impl Found {
    fn new(topic: TopicName, id: QueueId, layout: Layout) -> Self {
        let (starts, orphans) = (Vec::new(), Vec::new());
        let (short_from, missing_before, missing_from) = (None, None, None);
        Self { topic, id, layout, starts, short_from, missing_before, missing_from, orphans }
    }

    /// Takes the files, which are in the order of their names.
    fn take(
        &mut self,
        directory: &dyn Directory,
        mut files: Vec<QueueFile>,
        file_bytes: u64,
    ) -> Result<(), QueueError> {
        while let Some(empty) = files.pop_if(|file| file.len == 0) {
            directory.remove(&empty.path).map_err(|error| QueueError::io(&empty.path, error))?;
        }
        for file in files {
            if file.len < file_bytes {
                fill_up(directory, &file, file_bytes).map_err(|error| QueueError::io(&file.path, error))?;
                self.short_from = self.short_from.or(Some(file.start));
            }
            self.starts.push(file.start);
        }
        Ok(())
    }

    /// Looks for files of sums without their queue file.
    fn compare(&mut self, directory: &dyn Directory, sums: &[QueueFile]) -> Result<(), QueueError> {
        let oldest = self.starts.first().copied().unwrap_or(0);
        for file in sums.iter().filter(|file| !self.starts.contains(&file.start)) {
            if !has_sums(directory, file)? {
                directory.remove(&file.path).map_err(|error| QueueError::io(&file.path, error))?;
                continue;
            }
            let missing = if file.start < oldest { &mut self.missing_before } else { &mut self.missing_from };
            *missing = missing.or(Some(file.start));
            self.orphans.push((file.start, file.path.clone()));
        }
        Ok(())
    }
}

fn has_sums(directory: &dyn Directory, file: &QueueFile) -> Result<bool, QueueError> {
    let mut bytes = vec![0; usize::try_from(file.len.min(1 << 20)).unwrap_or(0)];
    let read = directory.open(&file.path).and_then(|file| file.read_into(0, &mut bytes));
    read.map_err(|error| QueueError::io(&file.path, error))?;
    Ok(bytes.iter().any(|byte| *byte != 0))
}

/// Replaces a short file by one of full length with the same content and zeros behind it.
fn fill_up(directory: &dyn Directory, short: &QueueFile, file_bytes: u64) -> io::Result<()> {
    let mut content = vec![0; usize::try_from(short.len).map_err(|_| io::ErrorKind::OutOfMemory)?];
    directory.open(&short.path)?.read_into(0, &mut content)?;
    directory.make_directory(crate::disk::parent(REPAIR))?;
    match directory.remove(REPAIR) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let whole = directory.create(REPAIR, file_bytes)?;
    write_all_at(&*whole, 0, &content)?;
    whole.sync()?;
    directory.rename(REPAIR, &short.path)
}
