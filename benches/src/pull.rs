//! The other half of the load: consumers that read everything again and again.

#![expect(clippy::disallowed_types, reason = "a load generator has sockets")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::frames::{TOPIC, fields, number, split};

/// Messages wanted with one pull.
pub const PULLED: u64 = 32;
/// Queues the benchmarks send to.
const QUEUES: usize = 4;
const READ_LEN: usize = 64 << 10;

/// One consumer for each queue; each has one pull in flight.
#[derive(Debug)]
pub struct Pullers(Vec<Puller>);

#[derive(Debug)]
struct Puller {
    stream: TcpStream,
    queue: usize,
    /// The offset of the next pull.
    next: u64,
    received: Vec<u8>,
}

impl Pullers {
    /// Connects.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(to: SocketAddr) -> io::Result<Self> {
        let connect = |queue| {
            let stream = TcpStream::connect(to)?;
            stream.set_nodelay(true)?;
            Ok(Puller { stream, queue, next: 0, received: Vec::new() })
        };
        (0..QUEUES).map(connect).collect::<io::Result<_>>().map(Self)
    }

    /// Pulls until `count` messages came; how many came then.
    ///
    /// # Errors
    /// A connection broke, or an answer was neither messages nor the end of a queue.
    pub fn pull(&mut self, count: u64) -> io::Result<u64> {
        let mut pulled = 0;
        while pulled < count {
            self.0.iter_mut().try_for_each(Puller::ask)?;
            for puller in &mut self.0 {
                pulled += puller.receive()?;
            }
        }
        Ok(pulled)
    }
}

impl Puller {
    fn ask(&mut self) -> io::Result<()> {
        let Self { queue, next, .. } = self;
        let header = format!(
            concat!(
                r#"{{"code":11,"extFields":{{"commitOffset":"0","consumerGroup":"bench","expressionType":"TAG","#,
                r#""maxMsgNums":"{}","queueId":"{}","queueOffset":"{}","subVersion":"0","subscription":"*","#,
                r#""suspendTimeoutMillis":"0","sysFlag":"4","topic":"{}"}},"#,
                r#""flag":0,"language":"JAVA","opaque":1,"serializeTypeCurrentRPC":"JSON","version":479}}"#
            ),
            PULLED, queue, next, TOPIC
        );
        let len = u32::try_from(header.len()).expect("a header is short");
        let mut frame = Vec::with_capacity(8 + header.len());
        frame.extend_from_slice(&(len + 4).to_be_bytes());
        frame.extend_from_slice(&len.to_be_bytes());
        frame.extend_from_slice(header.as_bytes());
        self.stream.write_all(&frame)
    }

    /// Takes an answer; the number of messages in it. Behind the last message it begins again.
    fn receive(&mut self) -> io::Result<u64> {
        let mut filled = 0;
        loop {
            if self.received.len() < filled + READ_LEN {
                self.received.resize(filled + READ_LEN, 0);
            }
            let read = self.stream.read(&mut self.received[filled..])?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
            filled += read;
            let Some((header, body, _)) = split(&self.received[..filled]) else { continue };
            let (mut code, mut next, mut end) = (-1, 0, 0);
            fields(header, |name, value| match name {
                b"code" => code = number(value),
                b"nextBeginOffset" => next = number(value),
                b"maxOffset" => end = number(value),
                _ => {}
            });
            if code != 0 {
                let header = String::from_utf8_lossy(header);
                return Err(io::Error::other(format!("a pull found nothing: {header}")));
            }
            self.next = if next < end { u64::try_from(next).unwrap_or(0) } else { 0 };
            return Ok(records(body));
        }
    }
}

/// How many records stand in `body`, each beginning with its length.
fn records(mut body: &[u8]) -> u64 {
    let mut count = 0;
    while let Some(len) = body.first_chunk() {
        let Some(rest) = body.get(u32::from_be_bytes(*len) as usize..) else { break };
        (body, count) = (rest, count + 1);
    }
    count
}
