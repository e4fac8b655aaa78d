//! The least that answers a send: one thread, one request, no queues, no topics, no checks.
//!
//! Per turn: wait, read every connection that has something, encode every message as a record of the
//! same format (with its body CRC and numbers), write them all with one `pwrite`, in `flushed` mode
//! flush, answer every connection with one write. What arrives during a flush shares the next one.

#![expect(clippy::disallowed_types, reason = "the floor is made of plain files and sockets")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use crate::frames::{fields, number, split, unescape};
use crate::group_log::allocated_file;

const LISTENER: u64 = u64::MAX;
/// Bytes read at a time: more than a connection of these benchmarks has in flight.
const READ_LEN: usize = 64 << 10;

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

/// What the answer to a message says.
struct Stored {
    opaque: i64,
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
            let stored = self.log.stage(header, body);
            stored.answer(&mut connection.answers);
            taken += len;
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
    /// Adds the message of a send to this turn.
    fn stage(&mut self, header: &[u8], body: &[u8]) -> Stored {
        let (mut opaque, mut queue, mut born_ms, mut topic, mut properties) = (0, 0, 0, &b""[..], &b""[..]);
        fields(header, |name, value| match name {
            b"opaque" => opaque = number(value),
            b"b" => topic = value,
            b"e" => queue = number(value),
            b"g" => born_ms = number(value),
            b"i" => properties = value,
            _ => {}
        });
        let queue = usize::try_from(queue).unwrap_or(0) % self.numbers.len();
        let stored =
            Stored { opaque, queue, number: self.numbers[queue], at: self.end + self.staged.len() as u64 };
        self.numbers[queue] += 1;
        self.encode(&stored, born_ms, topic, properties, body);
        stored
    }

    /// store-format §3.1, version 1.
    fn encode(&mut self, stored: &Stored, born_ms: i64, topic: &[u8], properties: &[u8], body: &[u8]) {
        let out = &mut self.staged;
        let start = out.len();
        let host = [127, 0, 0, 1, 0, 0, 0x2A, 0x9F];
        let int = |n: usize| u32::try_from(n).expect("lengths fit").to_be_bytes();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&0xDAA3_20A7_u32.to_be_bytes());
        out.extend_from_slice(&crc32fast::hash(body).to_be_bytes());
        out.extend_from_slice(&int(stored.queue));
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&stored.number.to_be_bytes());
        out.extend_from_slice(&stored.at.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&born_ms.to_be_bytes());
        out.extend_from_slice(&host);
        out.extend_from_slice(&born_ms.to_be_bytes());
        out.extend_from_slice(&host);
        out.extend_from_slice(&[0; 12]);
        out.extend_from_slice(&int(body.len()));
        out.extend_from_slice(body);
        out.push(u8::try_from(topic.len()).expect("a topic is short"));
        out.extend_from_slice(topic);
        let properties_at = out.len();
        out.extend_from_slice(&[0; 2]);
        unescape(properties, out);
        let properties_len = u16::try_from(out.len() - properties_at - 2).expect("properties are short");
        out[properties_at..properties_at + 2].copy_from_slice(&properties_len.to_be_bytes());
        let len = int(out.len() - start);
        out[start..start + 4].copy_from_slice(&len);
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
