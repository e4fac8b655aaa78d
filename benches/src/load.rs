//! The load generator: one thread that sends frames and checks every answer.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a load generator has sockets and a clock"
)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::frames::{FIRST_OPAQUE, SendFrame, fields, number, split};

const READ_LEN: usize = 64 << 10;

/// What to send.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Connections.
    pub connections: usize,
    /// Sends in flight on each.
    pub in_flight: u64,
    /// Bytes of a body.
    pub body_len: usize,
}

#[derive(Debug)]
struct Peer {
    stream: TcpStream,
    frame: SendFrame,
    received: Vec<u8>,
    filled: usize,
    out: Vec<u8>,
}

/// Connections to one server. A connection sends to one queue; neighbours to different ones.
#[derive(Debug)]
pub struct Generator {
    peers: Vec<Peer>,
    load: Load,
}

impl Generator {
    /// Connects.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(to: SocketAddr, load: Load) -> io::Result<Self> {
        let body = vec![b'x'; load.body_len];
        let connect = |index: usize| {
            let stream = TcpStream::connect(to)?;
            stream.set_nodelay(true)?;
            let queue = u32::try_from(index % 4).expect("below 4");
            let frame = SendFrame::new(queue, &body);
            Ok(Peer { stream, frame, received: vec![0; 2 * READ_LEN], filled: 0, out: Vec::new() })
        };
        Ok(Self { peers: (0..load.connections).map(connect).collect::<io::Result<_>>()?, load })
    }

    /// Closed loop: keeps the wanted number in flight until `count` were answered. Seconds it took.
    ///
    /// # Errors
    /// A connection broke, or an answer was no success.
    pub fn closed_loop(&mut self, count: u64) -> io::Result<f64> {
        self.closed_loop_beside(count, |_| {})
    }

    /// As [`Generator::closed_loop`]; `each` hears how many answers came at a time.
    ///
    /// # Errors
    /// As there.
    pub fn closed_loop_beside(&mut self, count: u64, mut each: impl FnMut(u64)) -> io::Result<f64> {
        let start = Instant::now();
        let (mut sent, mut answered) = (0, 0);
        for peer in &mut self.peers {
            sent += peer.send(sent, self.load.in_flight.min(count - sent))?;
        }
        while answered < count {
            let ready = wait(&self.peers, None)?;
            for peer in self.peers.iter_mut().zip(ready).filter_map(|(peer, ready)| ready.then_some(peer)) {
                let mut more = 0;
                peer.receive(|_| more += 1)?;
                answered += more;
                each(more);
                sent += peer.send(sent, more.min(count - sent))?;
            }
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// One after the other on the first connection: how long each took.
    ///
    /// # Errors
    /// As [`Generator::closed_loop`].
    pub fn one_by_one(&mut self, count: u64) -> io::Result<Vec<Duration>> {
        self.one_by_one_beside(count, || {})
    }

    /// As [`Generator::one_by_one`]; `each` is called with each send.
    ///
    /// # Errors
    /// As there.
    pub fn one_by_one_beside(&mut self, count: u64, mut each: impl FnMut()) -> io::Result<Vec<Duration>> {
        let peer = &mut self.peers[0];
        let mut taken = Vec::new();
        for number in 0..count {
            let start = Instant::now();
            peer.send(number, 1)?;
            each();
            let mut answers = 0;
            while answers == 0 {
                peer.receive(|_| answers += 1)?;
            }
            taken.push(start.elapsed());
        }
        Ok(taken)
    }

    /// Open loop on the first connection: a send each `every`, whatever the server does; how long
    /// after it was due each was answered.
    ///
    /// # Errors
    /// As [`Generator::closed_loop`].
    pub fn paced(&mut self, count: u32, every: Duration) -> io::Result<Vec<Duration>> {
        let start = Instant::now();
        let due = |number: u32| start + every * number;
        let (mut sent, mut taken) = (0, Vec::new());
        while taken.len() < count as usize {
            while sent < count && due(sent) <= Instant::now() {
                self.peers[0].send(sent.into(), 1)?;
                sent += 1;
            }
            let pause = (sent < count).then(|| due(sent).saturating_duration_since(Instant::now()));
            if wait(&self.peers[..1], pause)?[0] {
                self.peers[0].receive(|number| {
                    let number = u32::try_from(number).expect("a number that was sent");
                    taken.push(due(number).elapsed());
                })?;
            }
        }
        Ok(taken)
    }
}

/// Which have something to read, at the latest after `pause`.
fn wait(peers: &[Peer], pause: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = peers.iter().map(|peer| PollFd::new(&peer.stream, PollFlags::IN)).collect();
    let pause = pause.map(|pause| Timespec {
        tv_sec: i64::try_from(pause.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: pause.subsec_nanos().into(),
    });
    poll(&mut polled, pause.as_ref())?;
    Ok(polled.iter().map(|polled| !polled.revents().is_empty()).collect())
}

impl Peer {
    /// Sends the frames from number `first` on with one write; how many.
    fn send(&mut self, first: u64, count: u64) -> io::Result<u64> {
        self.out.clear();
        for number in first..first + count {
            self.frame.write(number, &mut self.out);
        }
        self.stream.write_all(&self.out)?;
        Ok(count)
    }

    /// Reads once and calls `each` with the number of every send answered.
    fn receive(&mut self, mut each: impl FnMut(u64)) -> io::Result<()> {
        let read = self.stream.read(&mut self.received[self.filled..])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        self.filled += read;
        let mut taken = 0;
        while let Some((header, _, len)) = split(&self.received[taken..self.filled]) {
            let (mut code, mut opaque) = (-1, 0);
            fields(header, |name, value| match name {
                b"code" => code = number(value),
                b"opaque" => opaque = number(value),
                _ => {}
            });
            if code != 0 {
                let header = String::from_utf8_lossy(header);
                return Err(io::Error::other(format!("a send was refused: {header}")));
            }
            each(u64::try_from(opaque).unwrap_or(0).wrapping_sub(FIRST_OPAQUE));
            taken += len;
        }
        self.received.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        Ok(())
    }
}
