//! Checksums of the blocks of a queue file, in a file of their own beside RocketMQ's folders.
//!
//! ```text
//! staticfire/queuesums/consumequeue/<topic>/<queue>/<name of the queue file>
//!
//! 0        4        8
//! +--------+--------+--------+- - -
//! | block 0| block 1| block 2|         u32 each, big-endian: CRC-32 of 4096 bytes of the queue
//! +--------+--------+--------+- - -    file (fewer at its end), never 0; 0 = not known
//! ```
//! The sum of a block covers its unwritten rest, which is zero. Sums are written with the entries
//! (not for every block on its own: about once a second) and synced with them, so every block whose
//! entries were noted as durable has its sum. Blocks written by RocketMQ have none until they are
//! rebuilt. A file of sums without its queue file tells that the queue file was lost.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::disk::{Directory, SegmentFile, parent, write_all_at};

/// Bytes of a queue file under one sum.
pub(crate) const BLOCK: u64 = 4096;
/// The folder under which the folders of the queues are mirrored.
pub(super) const FOLDER: &str = "staticfire/queuesums";
const WIDTH: u64 = 4;

/// Where the sums of the queue file or folder `path` are.
pub(crate) fn path(path: &str) -> String {
    format!("{FOLDER}/{path}")
}

/// The sum of a block with this CRC.
pub(super) fn sum(crc: u32) -> u32 {
    crc.max(1)
}

/// The first place in a file of sums, read whole as `sums`, that does not hold for a queue file of `len`
/// bytes, of which `bytes` gives a range.
pub(crate) fn first_wrong(sums: &[u8], len: usize, bytes: impl Fn(Range<usize>) -> Bytes) -> Option<usize> {
    let mut blocks = (0..len).step_by(BLOCK as usize).map(|at| at..len.min(at + BLOCK as usize));
    (0..sums.len()).step_by(WIDTH as usize).find(|at| {
        let stored = sums[*at..].first_chunk().map_or(u32::MAX, |stored| u32::from_be_bytes(*stored));
        let block = blocks.next();
        stored != 0 && block.is_none_or(|block| sum(crc32fast::hash(&bytes(block))) != stored)
    })
}

/// The sums of one queue file.
#[derive(Debug)]
pub(super) struct Sums {
    path: String,
    blocks: u64,
    /// One bit for each block that matched its sum, or was written, since the store was opened.
    trusted: Box<[AtomicU64]>,
    dirty: bool,
}

impl Sums {
    /// Of the queue file `queue_file` of `len` bytes; nothing is read yet.
    pub(super) fn of(queue_file: &str, len: u64) -> Self {
        let blocks = len.div_ceil(BLOCK);
        let trusted = (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { path: path(queue_file), blocks, trusted, dirty: false }
    }

    pub(super) fn is_trusted(&self, block: u64) -> bool {
        let (word, bit) = Self::bit(block);
        self.trusted.get(word).is_none_or(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    pub(super) fn trust(&self, block: u64) {
        let (word, bit) = Self::bit(block);
        if let Some(word) = self.trusted.get(word) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    fn bit(block: u64) -> (usize, u64) {
        (usize::try_from(block / 64).unwrap_or(usize::MAX), 1 << (block % 64))
    }

    /// The stored sum of `block`; `None` when it is not known.
    pub(super) fn stored(&self, directory: &dyn Directory, block: u64) -> io::Result<Option<u32>> {
        let Some(file) = self.open(directory)? else { return Ok(None) };
        if file.len() < (block + 1) * WIDTH {
            return Ok(None);
        }
        let mut bytes = [0; WIDTH as usize];
        file.read_into(block * WIDTH, &mut bytes)?;
        Ok(Some(u32::from_be_bytes(bytes)).filter(|sum| *sum != 0))
    }

    /// All stored sums; none when there is no file.
    pub(super) fn all(&self, directory: &dyn Directory) -> io::Result<Vec<u32>> {
        let Some(file) = self.open(directory)? else { return Ok(Vec::new()) };
        let mut bytes = vec![0; usize::try_from(file.len().min(self.blocks * WIDTH)).unwrap_or(0)];
        file.read_into(0, &mut bytes)?;
        let sums = bytes.as_chunks::<{ WIDTH as usize }>().0.iter();
        Ok(sums.map(|sum| u32::from_be_bytes(*sum)).collect())
    }

    /// Stores the sums of consecutive blocks from `block` on; 0 = not known. Returns whether the
    /// file had to be made.
    pub(super) fn store(&mut self, directory: &dyn Directory, block: u64, sums: &[u32]) -> io::Result<bool> {
        let known = self.open(directory)?.filter(|file| file.len() == self.blocks * WIDTH);
        let is_new = known.is_none();
        let file = match known {
            Some(file) => file,
            None => self.create(directory)?,
        };
        let bytes: Vec<u8> = sums.iter().flat_map(|sum| sum.to_be_bytes()).collect();
        write_all_at(&*file, block * WIDTH, &bytes)?;
        self.dirty = true;
        Ok(is_new)
    }

    fn create(&self, directory: &dyn Directory) -> io::Result<Arc<dyn SegmentFile>> {
        directory.make_directory(parent(&self.path))?;
        self.remove(directory)?; // one of another length is of no use
        directory.create(&self.path, self.blocks * WIDTH)
    }

    /// Has the file synced once more, if there is one.
    pub(super) fn doubt(&mut self, directory: &dyn Directory) -> io::Result<()> {
        self.dirty = self.open(directory)?.is_some();
        Ok(())
    }

    /// Removes the file, if there is one.
    pub(super) fn remove(&self, directory: &dyn Directory) -> io::Result<()> {
        match directory.remove(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The path, if the file was written since the last call.
    pub(super) fn take_unsynced(&mut self) -> Option<String> {
        std::mem::take(&mut self.dirty).then(|| self.path.clone())
    }

    /// The file, if there is one. It is used once for each block, so it does not stay open.
    fn open(&self, directory: &dyn Directory) -> io::Result<Option<Arc<dyn SegmentFile>>> {
        match directory.open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }
}
