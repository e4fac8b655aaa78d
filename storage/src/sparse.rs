//! A file whose holes are never touched.
//!
//! A page of a mapping that lies in a hole must be made when it is looked at. On a tmpfs that is full
//! it cannot be, and whoever looks is killed by SIGBUS. So holes are taken for the zeros that they are.

use std::io;
use std::ops::Range;

use bytes::Bytes;

use crate::blank::BLANK_LEN_MIN;
use crate::disk::{Directory, SegmentFile};
use crate::record::{RecordError, Scanned, next_at};

/// The first bytes of a file, up to some length.
#[derive(Debug)]
pub(crate) struct Sparse {
    len: usize,
    mapped: Bytes,
    /// What is no hole, in order.
    data: Vec<Range<usize>>,
}

impl Sparse {
    /// Maps the file `path`, of which at most `len_max` bytes count.
    pub(crate) fn open(directory: &dyn Directory, path: &str, len_max: u64) -> io::Result<Self> {
        Self::of(&*directory.open(path)?, len_max)
    }

    /// Maps `file`, of which at most `len_max` bytes count.
    pub(crate) fn of(file: &dyn SegmentFile, len_max: u64) -> io::Result<Self> {
        let len = file.len().min(len_max);
        let mut data = Vec::new();
        let mut at = 0;
        while at < len
            && let Some(from) = file.next_data(at)?.filter(|from| *from < len)
        {
            at = file.next_hole(from)?.clamp(from + 1, len);
            data.push(from as usize..at as usize);
        }
        let mapped = if data.is_empty() { Bytes::new() } else { file.read(0..len)? };
        Ok(Self { len: len as usize, mapped, data })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first byte from `from` on that is not zero.
    pub(crate) fn first_nonzero(&self, from: usize) -> Option<usize> {
        self.find(from, first_nonzero)
    }

    /// The bytes of `range`, which lies within the length: copied only if there is a hole in it.
    pub(crate) fn slice(&self, range: Range<usize>) -> Bytes {
        match self.data_from(range.start).next() {
            Some(data) if data.start <= range.start && range.end <= data.end => self.mapped.slice(range),
            _ => {
                let mut bytes = vec![0; range.len()];
                for data in self.data_from(range.start).take_while(|data| data.start < range.end) {
                    let part = data.start.max(range.start)..data.end.min(range.end);
                    let to = part.start - range.start..part.end - range.start;
                    bytes[to].copy_from_slice(&self.mapped[part]);
                }
                bytes.into()
            }
        }
    }

    /// As [`Sparse::first_nonzero`], for what `find` looks for: it gets the bytes up to the end of what is no
    /// hole, and where to begin.
    pub(crate) fn find(&self, from: usize, find: impl Fn(&[u8], usize) -> Option<usize>) -> Option<usize> {
        let in_data = |data: &Range<usize>| find(&self.mapped[..data.end], data.start.max(from));
        self.data_from(from).find_map(in_data)
    }

    /// What starts at `at`, and its bytes: all of a record, the head of anything else.
    pub(crate) fn item(&self, at: usize) -> (Scanned, Bytes) {
        let left = self.len - at;
        let head = self.slice(at..at + left.min(BLANK_LEN_MIN));
        match next_at(&head) {
            Scanned::Damaged(RecordError::Truncated { needed, .. }) if head.len() == BLANK_LEN_MIN => {
                if needed > left as u64 {
                    let error = RecordError::Truncated { needed, available: left as u64 };
                    return (Scanned::Damaged(error), head);
                }
                (Scanned::Record { len: needed as u32 }, self.slice(at..at + needed as usize))
            }
            other => (other, head),
        }
    }

    fn data_from(&self, from: usize) -> impl Iterator<Item = &Range<usize>> {
        self.data[self.data.partition_point(|data| data.end <= from)..].iter()
    }
}

/// The first byte from `from` on that is not zero.
pub(crate) fn first_nonzero(bytes: &[u8], from: usize) -> Option<usize> {
    const STEP: usize = 64;
    let mut at = from;
    while bytes.get(at..at + STEP).is_some_and(|zeros| zeros == [0; STEP]) {
        at += STEP;
    }
    bytes.get(at..)?.iter().position(|byte| *byte != 0).map(|more| at + more)
}
