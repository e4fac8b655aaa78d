//! The least that answers a send of this protocol: one thread, one kind of request.
//!
//! Per turn: wait, read every connection that has something, encode every message, write them all with
//! one `pwrite`, in `flushed` mode flush, answer every connection with one write. What arrives during
//! a flush shares the next one.
//!
//! What it does, as whoever speaks this protocol must: takes any JSON that is a header (spaces, escapes,
//! keys in any order), with the same parser as the broker and nothing copied but a text with
//! escapes; closes a connection that sends anything else; writes the record that this project
//! writes, with the CRC of its body and the CRC of all of it; gives queue offsets and message ids.
//!
//! What it does not do: topics (any name is one, with 16 queues), permissions, limits on what a
//! connection may have in flight, batches, delays, properties of the broker's own, consume queues,
//! readers of any kind, segments, recovery.

#![expect(clippy::disallowed_types, reason = "the floor is made of plain files and sockets")]

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use serde::Deserialize;

use crate::frames::split;
use crate::group_log::allocated_file;

const LISTENER: u64 = u64::MAX;
/// Bytes read at a time: more than a connection of these benchmarks has in flight.
const READ_LEN: usize = 64 << 10;
/// The code of the only request.
const SEND_MESSAGE_V2: i32 = 310;
/// The longest frame, as everywhere in this protocol.
const FRAME_LEN_MAX: usize = 16 << 20;
/// The last property of a record, before the digits of its CRC are known.
const CRC_PROPERTY: &[u8; 20] = b"__CRC32#\x010000000000\x02";

/// A server that only takes messages.
#[derive(Debug)]
pub struct Floor {
    listener: TcpListener,
    poll: rustix::fd::OwnedFd,
    connections: Vec<Option<Connection>>,
    log: Log,
    flushed: bool,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// The first `filled` bytes were received.
    received: Vec<u8>,
    filled: usize,
    answers: Vec<u8>,
}

/// The file, and what this turn adds to it.
#[derive(Debug)]
struct Log {
    file: File,
    len: u64,
    end: u64,
    staged: Vec<u8>,
    /// Next numbers of the queues.
    numbers: [u64; 16],
}

/// The header of a send.
#[derive(Deserialize)]
struct Header<'a> {
    code: i32,
    opaque: i32,
    #[serde(borrow, rename = "extFields")]
    fields: Fields<'a>,
}

/// The fields of a send that end up in its record; numbers travel as texts.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, rename = "b")]
    topic: Cow<'a, str>,
    #[serde(borrow, rename = "e")]
    queue: Cow<'a, str>,
    #[serde(borrow, rename = "f")]
    sys_flag: Cow<'a, str>,
    #[serde(borrow, rename = "g")]
    born_ms: Cow<'a, str>,
    #[serde(borrow, rename = "h")]
    flag: Cow<'a, str>,
    #[serde(borrow, rename = "i")]
    properties: Cow<'a, str>,
}

/// What the answer to a message says.
struct Stored {
    opaque: i32,
    queue: usize,
    number: u64,
    at: u64,
}

impl Floor {
    /// Listens on a free port; the log is a new file in `directory` of `len` bytes, which is begun
    /// again when it is full.
    ///
    /// # Errors
    /// The system's.
    pub fn start(directory: &Path, len: u64, flushed: bool) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&poll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        let file = allocated_file(&directory.join("floor"), len)?;
        let log = Log { file, len, end: 0, staged: Vec::new(), numbers: [0; 16] };
        Ok(Self { listener, poll, connections: Vec::new(), log, flushed })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until something fails.
    ///
    /// # Errors
    /// The disk's or the listener's; a connection that fails is closed.
    pub fn serve(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(64);
        let mut turn = Vec::new();
        loop {
            events.clear();
            match epoll::wait(&self.poll, spare_capacity(&mut events), None) {
                // A tracer attaches or leaves.
                Err(rustix::io::Errno::INTR) => continue,
                waited => waited?,
            };
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    index => {
                        let index = usize::try_from(index).expect("an index of a vector");
                        if self.receive(index) {
                            turn.push(index);
                        }
                    }
                }
            }
            self.log.write(self.flushed)?;
            for index in turn.drain(..) {
                self.answer(index);
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nodelay(true)?;
        let data = epoll::EventData::new_u64(self.connections.len() as u64);
        epoll::add(&self.poll, &stream, data, epoll::EventFlags::IN)?;
        self.connections.push(Some(Connection::new(stream)));
        Ok(())
    }

    /// Takes what a connection sent; whether it wants an answer.
    fn receive(&mut self, index: usize) -> bool {
        let Some(connection) = &mut self.connections[index] else { return false };
        if !connection.fill() {
            self.connections[index] = None;
            return false;
        }
        let mut taken = 0;
        while let Some((header, body, len)) = split(&connection.received[taken..connection.filled]) {
            let Some(stored) = self.log.stage(header, body) else {
                self.connections[index] = None;
                return false;
            };
            stored.answer(&mut connection.answers);
            taken += len;
        }
        if connection.filled - taken > FRAME_LEN_MAX {
            self.connections[index] = None;
            return false;
        }
        connection.received.copy_within(taken..connection.filled, 0);
        connection.filled -= taken;
        !connection.answers.is_empty()
    }

    fn answer(&mut self, index: usize) {
        let Some(connection) = &mut self.connections[index] else { return };
        if connection.stream.write_all(&connection.answers).is_err() {
            self.connections[index] = None;
            return;
        }
        connection.answers.clear();
    }
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self { stream, received: Vec::new(), filled: 0, answers: Vec::new() }
    }

    /// Reads once; false at the end.
    fn fill(&mut self) -> bool {
        if self.received.len() < self.filled + READ_LEN {
            self.received.resize(self.filled + READ_LEN, 0);
        }
        let read = self.stream.read(&mut self.received[self.filled..]).unwrap_or(0);
        self.filled += read;
        read > 0
    }
}

impl Log {
    /// Adds the message of a send to this turn; `None` for anything else.
    fn stage(&mut self, header: &[u8], body: &[u8]) -> Option<Stored> {
        let Header { code, opaque, fields } = serde_json::from_slice(header).ok()?;
        let queue = fields.queue.parse().ok().filter(|queue| *queue < self.numbers.len())?;
        if code != SEND_MESSAGE_V2 {
            return None;
        }
        let stored =
            Stored { opaque, queue, number: self.numbers[queue], at: self.end + self.staged.len() as u64 };
        let start = self.staged.len();
        if self.encode(&stored, &fields, body).is_none() {
            self.staged.truncate(start);
            return None;
        }
        self.numbers[queue] += 1;
        Some(stored)
    }

    /// store-format §3.1, version 1, with the CRC of §3.6; `None` when a field does not fit.
    fn encode(&mut self, stored: &Stored, fields: &Fields<'_>, body: &[u8]) -> Option<()> {
        let topic_len = u8::try_from(fields.topic.len()).ok()?;
        let properties_len = u16::try_from(fields.properties.len() + CRC_PROPERTY.len()).ok()?;
        let born_ms = fields.born_ms.parse::<i64>().ok()?.to_be_bytes();
        let int = |text: &str| Some(text.parse::<i32>().ok()?.to_be_bytes());
        let len = |n: usize| u32::try_from(n).expect("a frame has at most 16 MiB").to_be_bytes();
        let host = [127, 0, 0, 1, 0, 0, 0x2A, 0x9F];
        let out = &mut self.staged;
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&0xDAA3_20A7_u32.to_be_bytes());
        out.extend_from_slice(&(crc32fast::hash(body) & 0x7FFF_FFFF).to_be_bytes());
        out.extend_from_slice(&len(stored.queue));
        out.extend_from_slice(&int(&fields.flag)?);
        out.extend_from_slice(&stored.number.to_be_bytes());
        out.extend_from_slice(&stored.at.to_be_bytes());
        out.extend_from_slice(&int(&fields.sys_flag)?);
        out.extend_from_slice(&born_ms);
        out.extend_from_slice(&host);
        out.extend_from_slice(&born_ms);
        out.extend_from_slice(&host);
        out.extend_from_slice(&[0; 12]);
        out.extend_from_slice(&len(body.len()));
        out.extend_from_slice(body);
        out.push(topic_len);
        out.extend_from_slice(fields.topic.as_bytes());
        out.extend_from_slice(&properties_len.to_be_bytes());
        out.extend_from_slice(fields.properties.as_bytes());
        let covered = out.len();
        let record_len = len(covered + CRC_PROPERTY.len() - start);
        out[start..start + 4].copy_from_slice(&record_len);
        let mut crc = crc32fast::hash(&out[start..covered]) & 0x7FFF_FFFF;
        out.extend_from_slice(CRC_PROPERTY);
        // Lowest digit first.
        for digit in &mut out[covered + 9..covered + 19] {
            *digit = b'0' + u8::try_from(crc % 10).expect("a digit");
            crc /= 10;
        }
        Some(())
    }

    fn write(&mut self, flushed: bool) -> io::Result<()> {
        if self.staged.is_empty() {
            return Ok(());
        }
        if self.end + self.staged.len() as u64 > self.len {
            self.end = 0;
        }
        self.file.write_all_at(&self.staged, self.end)?;
        if flushed {
            self.file.sync_data()?;
        }
        self.end += self.staged.len() as u64;
        self.staged.clear();
        Ok(())
    }
}

impl Stored {
    /// The answer, with what clients read of it.
    fn answer(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 8]);
        let Self { opaque, queue, number, at } = self;
        // Writing to a vector does not fail.
        let _ = write!(
            out,
            concat!(
                r#"{{"code":0,"extFields":{{"queueId":"{}","queueOffset":"{}","msgId":"7F00000100002A9F{:016X}","#,
                r#""transactionId":"7F000001000100000000000000000000","MSG_REGION":"DefaultRegion","TRACE_ON":"true"}},"#,
                r#""flag":1,"language":"JAVA","opaque":{},"serializeTypeCurrentRPC":"JSON","version":479}}"#
            ),
            queue, number, at, opaque
        );
        let header = u32::try_from(out.len() - start - 8).expect("an answer is short");
        out[start..start + 4].copy_from_slice(&(header + 4).to_be_bytes());
        out[start + 4..start + 8].copy_from_slice(&header.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use staticfire_storage::{PhysicalOffset, Record, RecordCrc};
    use staticfire_transport::FrameDecoder;

    use super::*;
    use crate::frames::SendFrame;

    fn log() -> Log {
        let file = tempfile::tempfile().expect("a temporary file");
        Log { file, len: 1 << 20, end: 0, staged: Vec::new(), numbers: [0; 16] }
    }

    #[test]
    fn its_records_and_answers_are_those_of_the_protocol() {
        let (mut log, mut frame, mut answers) = (log(), Vec::new(), Vec::new());
        SendFrame::new(3, b"hello").write(17, &mut frame);
        let (header, body, _) = split(&frame).unwrap();
        for number in 0..2 {
            let at = log.staged.len();
            log.stage(header, body).unwrap().answer(&mut answers);
            let bytes = log.staged[at..].to_vec();
            let record = Record::parse(bytes.into(), PhysicalOffset(at as u64), RecordCrc::Required).unwrap();
            assert_eq!(
                (record.queue().0, record.queue_offset().0, record.topic()),
                (3, number, "BenchTopic")
            );
            assert_eq!((record.body().as_ref(), record.property("WAIT")), (&b"hello"[..], Some("true")));
        }
        let mut decoder = FrameDecoder::new();
        decoder.push(&answers);
        let answer = std::iter::repeat_with(|| decoder.next().unwrap().unwrap()).nth(1).unwrap();
        assert_eq!((answer.code, answer.ext.get("queueOffset")), (0, Some("1")));
    }

    #[test]
    fn what_is_no_send_is_not_stored() {
        let mut log = log();
        for header in
            [&b""[..], b"{", br#"{"code":310,"opaque":1}"#, br#"{"code":11,"opaque":1,"extFields":{}}"#]
        {
            assert!(log.stage(header, b"body").is_none());
        }
        let mut frame = Vec::new();
        SendFrame::new(99, b"hello").write(17, &mut frame);
        let (header, body, _) = split(&frame).unwrap();
        assert!(log.stage(header, body).is_none(), "no such queue");
        assert!(log.staged.is_empty());
    }
}
