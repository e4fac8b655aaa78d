//! Frames on their way out: headers and small bodies in one buffer, large bodies as the slices
//! they came in, all of it written by one vectored write.
//!
//! ```text
//!   parts   [headers] [body slice] [body slice] [headers] [body slice] …
//!   tail    headers and small bodies after the last part, still growing
//! ```

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use crate::{Command, SendError, frame};

/// Body slices below this are copied: cheaper than one more entry of a vectored write.
const COPIED_BELOW: usize = 512;

/// An empty outbox keeps a buffer of this size at most.
const KEPT_BYTES: usize = 16 << 10;

/// Slices of one vectored write; the system takes 1,024.
pub(crate) const SLICES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    parts: VecDeque<Bytes>,
    tail: Vec<u8>,
    /// Bytes of the tail that are written already.
    tail_written: usize,
    /// All that is to be written.
    len: usize,
}

impl Outbox {
    /// Appends a frame and returns its length.
    pub(crate) fn push(&mut self, command: &Command) -> Result<usize, SendError> {
        let frame = frame::encode_header(command, &mut self.tail)?;
        for slice in command.body.slices() {
            if slice.len() < COPIED_BELOW {
                self.tail.extend_from_slice(slice);
            } else {
                self.seal();
                self.parts.push_back(slice.clone());
            }
        }
        self.len += frame;
        Ok(frame)
    }

    /// Makes the tail a part.
    fn seal(&mut self) {
        let mut part = Bytes::from(std::mem::take(&mut self.tail));
        part.advance(std::mem::take(&mut self.tail_written));
        if !part.is_empty() {
            self.parts.push_back(part);
        }
    }

    /// Moves everything of `other` behind what is here.
    pub(crate) fn append(&mut self, other: &mut Self) {
        if self.len == 0 {
            std::mem::swap(self, other);
            return;
        }
        self.seal();
        self.parts.append(&mut other.parts);
        std::mem::swap(&mut self.tail, &mut other.tail);
        self.len += std::mem::take(&mut other.len);
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Fills `into` from the front of what is to be written, and returns how much of it is used.
    pub(crate) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let all = self.parts.iter().map(Bytes::as_ref).chain([&self.tail[self.tail_written..]]);
        let mut used = 0;
        for (place, slice) in into.iter_mut().zip(all.filter(|slice| !slice.is_empty())) {
            *place = IoSlice::new(slice);
            used += 1;
        }
        used
    }

    /// Forgets the first `written` bytes.
    pub(crate) fn advance(&mut self, mut written: usize) {
        self.len -= written;
        while let Some(part) = self.parts.front_mut() {
            if written < part.len() {
                part.advance(written);
                return;
            }
            written -= part.len();
            self.parts.pop_front();
        }
        self.tail_written += written;
        if self.len == 0 {
            self.tail_written = 0;
            self.tail.clear();
            self.tail.shrink_to(KEPT_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FrameDecoder;
    use proptest::prelude::*;

    fn drain(outbox: &mut Outbox, step: usize) -> Vec<u8> {
        let mut written = Vec::new();
        while outbox.len() > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let used = outbox.slices(&mut slices);
            let all: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
            let taken = step.min(all.len());
            written.extend_from_slice(&all[..taken]);
            outbox.advance(taken);
        }
        written
    }

    #[test]
    fn large_slices_go_out_uncopied() {
        let body: Vec<Bytes> = vec![vec![1; 2000].into(), vec![2; 10].into(), vec![3; 3000].into()];
        let mut outbox = Outbox::default();
        outbox.push(&Command::request(1).with_body(body.clone())).unwrap();
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let used = outbox.slices(&mut slices);
        let found: Vec<*const u8> = slices[..used].iter().map(|slice| slice.as_ptr()).collect();
        assert_eq!((used, found[1], found[3]), (4, body[0].as_ptr(), body[2].as_ptr()));
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            bodies in prop::collection::vec((prop::collection::vec(0usize..1500, 0..4), any::<bool>()), 0..12),
            step in 1usize..4000,
        ) {
            let (mut outbox, mut later) = (Outbox::default(), Outbox::default());
            let mut sent = Vec::new();
            for (sizes, moved) in bodies {
                let body: Vec<Bytes> = sizes.iter().map(|size| vec![*size as u8; *size].into()).collect();
                let command = Command::request(7).with_body(body);
                later.push(&command).unwrap();
                sent.push(command);
                if moved {
                    outbox.append(&mut later);
                    prop_assert_eq!(later.len(), 0);
                }
            }
            outbox.append(&mut later);
            let mut decoder = FrameDecoder::new();
            decoder.push(&drain(&mut outbox, step));
            for command in sent {
                prop_assert_eq!(decoder.next().unwrap().unwrap(), command);
            }
            prop_assert_eq!(decoder.pending(), 0);
        }
    }
}
