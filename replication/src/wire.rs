//! How the nodes of a group write down what they say.
//!
//! ```text
//! 0      4         5        6          8         12       16      20         22
//! +------+---------+--------+----------+---------+--------+-------+----------+-------+--------+---------+
//! | SFRP | version | kind   | reserved | crc32   | from   | to    | len n    | group | fields | records |
//! |      | u8      | u8     | 0        | u32     | u32    | u32   | u16      | n     |        |         |
//! +------+---------+--------+----------+---------+--------+-------+----------+-------+--------+---------+
//! ```
//! Big-endian. The checksum covers everything behind it, the records too (I33). The group is
//! `cluster/name`: who is asked by a stranger, or meant for somebody else, does not answer (B48).
//! Fields are 8 bytes each unless they say otherwise; their order is that of the code below. It
//! travels as the body of a remoting frame.

use std::fmt;

use bytes::Bytes;
use staticfire_storage::{Epoch, PhysicalOffset, Position};

use crate::{Answer, DiskId, Fetch, FetchAnswer, Introduction, NodeId, Request, VoteAnswer, VoteRequest};

const MAGIC: &[u8; 4] = b"SFRP";
const VERSION: u8 = 1;
/// Where the checksum ends and what it covers begins.
const COVERED: usize = 12;
/// The most members a group is told to have.
const MEMBERS_MAX: u64 = 64;

/// A message with its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// `cluster/name` of the group.
    pub group: String,
    /// Who says it.
    pub from: NodeId,
    /// To whom.
    pub to: NodeId,
    /// What.
    pub message: Message,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A question.
    Request(Request),
    /// An answer.
    Answer(Answer),
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Fewer bytes than the layout asks for, or more.
    Length,
    /// Another protocol, or a version that is not known here.
    Magic,
    /// The checksum does not hold.
    Checksum,
    /// A kind of message, or a value of a field, that does not exist.
    Value,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "the message is shorter or longer than it says",
            Self::Magic => "not a replication message of a known version",
            Self::Checksum => "the checksum of the message does not hold",
            Self::Value => "the message holds a value that does not exist",
        })
    }
}

impl std::error::Error for WireError {}

/// Writes a message down; `records` go behind it as they are, not copied.
#[must_use]
pub fn encode(envelope: &Envelope, records: Vec<Bytes>) -> Vec<Bytes> {
    let mut out = Vec::with_capacity(160);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[VERSION, kind(&envelope.message), 0, 0]);
    out.extend_from_slice(&[0; 4]);
    put32(&mut out, envelope.from.0);
    put32(&mut out, envelope.to.0);
    let group = &envelope.group.as_bytes()[..envelope.group.len().min(1 << 10)];
    out.extend_from_slice(&u16::try_from(group.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(group);
    match &envelope.message {
        Message::Request(request) => put_request(&mut out, request),
        Message::Answer(answer) => put_answer(&mut out, answer),
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&out[COVERED..]);
    records.iter().for_each(|slice| crc.update(slice));
    out[8..COVERED].copy_from_slice(&crc.finalize().to_be_bytes());
    std::iter::once(out.into()).chain(records).collect()
}

/// Reads a message, and the records behind it.
///
/// # Errors
/// [`WireError`].
pub fn decode(bytes: &Bytes) -> Result<(Envelope, Bytes), WireError> {
    let head: &[u8; COVERED] = bytes.first_chunk().ok_or(WireError::Length)?;
    if &head[..4] != MAGIC || head[4] != VERSION {
        return Err(WireError::Magic);
    }
    let crc = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    if crc32fast::hash(&bytes[COVERED..]) != crc {
        return Err(WireError::Checksum);
    }
    let mut fields = Fields(&bytes[COVERED..]);
    let (from, to) = (NodeId(fields.u32()?), NodeId(fields.u32()?));
    let len = fields.u16()?;
    let group = std::str::from_utf8(fields.take(len.into())?).map_err(|_| WireError::Value)?.to_owned();
    let message = match head[5] {
        kind if kind & 0x80 == 0 => Message::Request(fields.request(kind)?),
        kind => Message::Answer(fields.answer(kind & 0x7F)?),
    };
    let rest = bytes.slice(bytes.len() - fields.0.len()..);
    let carries = match &message {
        Message::Answer(Answer::Fetch(FetchAnswer::Records { from, upto, .. })) => {
            upto.since(*from).ok_or(WireError::Value)?
        }
        _ => 0,
    };
    if rest.len() as u64 != carries {
        return Err(WireError::Length);
    }
    Ok((Envelope { group, from, to, message }, rest))
}

fn kind(message: &Message) -> u8 {
    match message {
        Message::Request(Request::Fetch(_)) => 1,
        Message::Request(Request::Vote(_)) => 2,
        Message::Request(Request::TakeOver { .. }) => 3,
        Message::Request(Request::Introduce { .. }) => 4,
        Message::Answer(Answer::Vote(_)) => 0x82,
        Message::Answer(Answer::TakeOver { .. }) => 0x83,
        Message::Answer(Answer::Introduce(_)) => 0x84,
        Message::Answer(Answer::Fetch(FetchAnswer::Records { .. })) => 0x90,
        Message::Answer(Answer::Fetch(FetchAnswer::Diverged { .. })) => 0x91,
        Message::Answer(Answer::Fetch(FetchAnswer::Below { .. })) => 0x92,
        Message::Answer(Answer::Fetch(FetchAnswer::Refused { .. })) => 0x93,
    }
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put(out: &mut Vec<u8>, values: &[u64]) {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_be_bytes()));
}

fn put_request(out: &mut Vec<u8>, request: &Request) {
    match request {
        Request::Fetch(Fetch { session, epoch, at, flushed, visible, round, learner }) => {
            put(out, &[*session, epoch.0, at.epoch.0, at.end.0, flushed.0, visible.0, *round]);
            put(out, &[u64::from(*learner)]);
        }
        Request::Vote(VoteRequest { epoch, last, pre, transfer }) => {
            put(out, &[epoch.0, last.epoch.0, last.end.0, u64::from(*pre), u64::from(*transfer)]);
        }
        Request::TakeOver { epoch } => put(out, &[epoch.0]),
        Request::Introduce { disk } => put(out, &[disk.0]),
    }
}

fn put_answer(out: &mut Vec<u8>, answer: &Answer) {
    match answer {
        Answer::Fetch(FetchAnswer::Records { session, epoch, from, upto, end, confirmed, round }) => {
            put(out, &[*session, epoch.0, from.0, upto.0, end.0, confirmed.0, *round]);
        }
        Answer::Fetch(FetchAnswer::Diverged { session, epoch, common: at })
        | Answer::Fetch(FetchAnswer::Below { session, epoch, base: at }) => {
            put(out, &[*session, epoch.0, at.epoch.0, at.end.0]);
        }
        Answer::Fetch(FetchAnswer::Refused { epoch, leader, session }) => {
            put(out, &[epoch.0, leader.map_or(u64::MAX, |node| node.0.into()), *session]);
        }
        Answer::Vote(VoteAnswer { epoch, asked, pre, granted }) => {
            put(out, &[epoch.0, asked.0, u64::from(*pre), u64::from(*granted)]);
        }
        Answer::TakeOver { epoch } => put(out, &[epoch.0]),
        Answer::Introduce(Introduction { disk, epoch, last, floor, formed }) => {
            let head = [disk.0, epoch.0, last.epoch.0, last.end.0, floor.epoch.0, floor.end.0];
            put(out, &head);
            put(out, &[formed.len() as u64]);
            formed.iter().for_each(|(node, disk)| put(out, &[node.0.into(), disk.0]));
        }
    }
}

/// What is left to read.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(WireError::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(WireError::Length)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn node(&mut self) -> Result<NodeId, WireError> {
        u32::try_from(self.u64()?).map(NodeId).map_err(|_| WireError::Value)
    }

    fn flag(&mut self) -> Result<bool, WireError> {
        match self.u64()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Value),
        }
    }

    /// An epoch fits 31 bits, as the formats of others hold it.
    pub(crate) fn epoch(&mut self) -> Result<Epoch, WireError> {
        let epoch = self.u64()?;
        i32::try_from(epoch).map(|_| Epoch(epoch)).map_err(|_| WireError::Value)
    }

    pub(crate) fn offset(&mut self) -> Result<PhysicalOffset, WireError> {
        let offset = self.u64()?;
        i64::try_from(offset).map(|_| PhysicalOffset(offset)).map_err(|_| WireError::Value)
    }

    pub(crate) fn position(&mut self) -> Result<Position, WireError> {
        Ok(Position { epoch: self.epoch()?, end: self.offset()? })
    }

    pub(crate) fn formed(&mut self) -> Result<Vec<(NodeId, DiskId)>, WireError> {
        let len = self.u64()?;
        if len > MEMBERS_MAX {
            return Err(WireError::Value);
        }
        (0..len).map(|_| Ok((self.node()?, DiskId(self.u64()?)))).collect()
    }

    fn request(&mut self, kind: u8) -> Result<Request, WireError> {
        Ok(match kind {
            1 => Request::Fetch(Fetch {
                session: self.u64()?,
                epoch: self.epoch()?,
                at: self.position()?,
                flushed: self.offset()?,
                visible: self.offset()?,
                round: self.u64()?,
                learner: self.flag()?,
            }),
            2 => Request::Vote(VoteRequest {
                epoch: self.epoch()?,
                last: self.position()?,
                pre: self.flag()?,
                transfer: self.flag()?,
            }),
            3 => Request::TakeOver { epoch: self.epoch()? },
            4 => Request::Introduce { disk: DiskId(self.u64()?) },
            _ => return Err(WireError::Value),
        })
    }

    fn answer(&mut self, kind: u8) -> Result<Answer, WireError> {
        Ok(match kind {
            0x02 => Answer::Vote(VoteAnswer {
                epoch: self.epoch()?,
                asked: self.epoch()?,
                pre: self.flag()?,
                granted: self.flag()?,
            }),
            0x03 => Answer::TakeOver { epoch: self.epoch()? },
            0x04 => Answer::Introduce(Introduction {
                disk: DiskId(self.u64()?),
                epoch: self.epoch()?,
                last: self.position()?,
                floor: self.position()?,
                formed: self.formed()?,
            }),
            _ => Answer::Fetch(self.fetch_answer(kind)?),
        })
    }

    fn fetch_answer(&mut self, kind: u8) -> Result<FetchAnswer, WireError> {
        Ok(match kind {
            0x10 => FetchAnswer::Records {
                session: self.u64()?,
                epoch: self.epoch()?,
                from: self.offset()?,
                upto: self.offset()?,
                end: self.offset()?,
                confirmed: self.offset()?,
                round: self.u64()?,
            },
            0x11 => {
                FetchAnswer::Diverged { session: self.u64()?, epoch: self.epoch()?, common: self.position()? }
            }
            0x12 => FetchAnswer::Below { session: self.u64()?, epoch: self.epoch()?, base: self.position()? },
            0x13 => FetchAnswer::Refused {
                epoch: self.epoch()?,
                leader: match self.u64()? {
                    u64::MAX => None,
                    node => Some(u32::try_from(node).map(NodeId).map_err(|_| WireError::Value)?),
                },
                session: self.u64()?,
            },
            _ => return Err(WireError::Value),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position() -> impl Strategy<Value = Position> {
        (0..1_u64 << 31, 0..1_u64 << 63)
            .prop_map(|(epoch, end)| Position { epoch: Epoch(epoch), end: PhysicalOffset(end) })
    }

    fn epoch() -> impl Strategy<Value = Epoch> {
        (0..1_u64 << 31).prop_map(Epoch)
    }

    fn offset() -> impl Strategy<Value = PhysicalOffset> {
        (0..1_u64 << 62).prop_map(PhysicalOffset)
    }

    fn request() -> impl Strategy<Value = Request> {
        prop_oneof![
            (any::<u64>(), epoch(), position(), offset(), offset(), any::<u64>(), any::<bool>()).prop_map(
                |(session, epoch, at, flushed, visible, round, learner)| Request::Fetch(Fetch {
                    session,
                    epoch,
                    at,
                    flushed,
                    visible,
                    round,
                    learner
                })
            ),
            (epoch(), position(), any::<bool>(), any::<bool>()).prop_map(|(epoch, last, pre, transfer)| {
                Request::Vote(VoteRequest { epoch, last, pre, transfer })
            }),
            epoch().prop_map(|epoch| Request::TakeOver { epoch }),
            any::<u64>().prop_map(|disk| Request::Introduce { disk: DiskId(disk) }),
        ]
    }

    fn answer() -> impl Strategy<Value = (Answer, Vec<u8>)> {
        let alone = |answer| (answer, Vec::new());
        let formed =
            proptest::collection::vec((any::<u32>().prop_map(NodeId), any::<u64>().prop_map(DiskId)), 0..8);
        let records = (any::<u64>(), epoch(), offset(), offset(), offset(), any::<u64>(), any::<Vec<u8>>());
        prop_oneof![
            records.prop_map(|(session, epoch, from, end, confirmed, round, bytes)| {
                let upto = from.after(bytes.len() as u64);
                let answer = FetchAnswer::Records { session, epoch, from, upto, end, confirmed, round };
                (Answer::Fetch(answer), bytes)
            }),
            (any::<u64>(), epoch(), position()).prop_map(move |(session, epoch, common)| {
                alone(Answer::Fetch(FetchAnswer::Diverged { session, epoch, common }))
            }),
            (any::<u64>(), epoch(), position()).prop_map(move |(session, epoch, base)| {
                alone(Answer::Fetch(FetchAnswer::Below { session, epoch, base }))
            }),
            (epoch(), any::<Option<u32>>(), any::<u64>()).prop_map(move |(epoch, leader, session)| {
                let leader = leader.map(NodeId);
                alone(Answer::Fetch(FetchAnswer::Refused { epoch, leader, session }))
            }),
            (epoch(), epoch(), any::<bool>(), any::<bool>()).prop_map(move |(epoch, asked, pre, granted)| {
                alone(Answer::Vote(VoteAnswer { epoch, asked, pre, granted }))
            }),
            (any::<u64>(), epoch(), position(), position(), formed).prop_map(
                move |(disk, epoch, last, floor, formed)| {
                    let disk = DiskId(disk);
                    alone(Answer::Introduce(Introduction { disk, epoch, last, floor, formed }))
                }
            ),
        ]
    }

    fn message() -> impl Strategy<Value = (Message, Vec<u8>)> {
        prop_oneof![
            request().prop_map(|request| (Message::Request(request), Vec::new())),
            answer().prop_map(|(answer, records)| (Message::Answer(answer), records)),
        ]
    }

    proptest! {
        /// proves: I33, B50, B55: a message is read as it was written, and not at all when a bit of it,
        /// or of the records behind it, is another one, or when it is cut off
        #[test]
        fn a_message_is_read_as_written_or_not_at_all(
            (message, records) in message(),
            bit in any::<proptest::sample::Index>(),
            cut in any::<proptest::sample::Index>(),
        ) {
            let envelope =
                Envelope { group: "cluster/broker-a".to_owned(), from: NodeId(1), to: NodeId(3), message };
            let slices = encode(&envelope, vec![records.clone().into()]);
            let whole: Vec<u8> = slices.concat();
            let bytes = Bytes::from(whole.clone());
            prop_assert_eq!(decode(&bytes), Ok((envelope.clone(), records.into())));
            let mut flipped = whole.clone();
            let bit = bit.index(flipped.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Bytes 6 and 7 mean nothing; the kind and all others are covered or compared.
            let ignored = (6..8).contains(&(bit / 8));
            let read = decode(&flipped.into());
            prop_assert!(ignored || read != Ok((envelope, slices[1].clone())), "bit {bit}: {read:?}");
            prop_assert!(decode(&bytes.slice(..cut.index(whole.len()))).is_err());
        }

        /// proves: B50: no bytes make the decoder panic
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in any::<Vec<u8>>(), kind in any::<u8>()) {
            let mut framed = b"SFRP\x01".to_vec();
            framed.extend([kind, 0, 0, 0, 0, 0, 0]);
            framed.append(&mut bytes);
            let crc = crc32fast::hash(&framed[COVERED..]);
            framed[8..COVERED].copy_from_slice(&crc.to_be_bytes());
            let _ = decode(&framed.into());
        }
    }
}
