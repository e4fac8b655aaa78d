//! Simulated streams: two pipes between two hosts.
//!
//! ```text
//!   poll_write ──> segments, each with its time ──> arrived ──> poll_read
//!                  └──────── at most WINDOW bytes ────────┘
//! ```
//! One event per pipe is under way: the arrival of its first segment. If the way is cut or the
//! receiver is down, the event comes back later, as a retransmission would.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::links::{Fate, RETRANSMIT};
use super::timers::Due;
use super::world::{State, World};
use crate::Monotonic;
use crate::driver::Stream;

/// Bytes a pipe holds: what two systems buffer for a socket.
const WINDOW: usize = 256 << 10;

/// Longest wait between two attempts to get a segment through.
const RETRANSMIT_MAX: Duration = Duration::from_secs(5);

/// A sender gives up after so long without a way through.
const GIVE_UP: Duration = Duration::from_secs(900);

/// One direction of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    circuit: u64,
    /// The receiving end: 0 dialled, 1 accepted.
    to: usize,
}

/// When a frame comes once more.
const LATER: Range<Duration> = Duration::ZERO..Duration::from_millis(500);

/// The length of the frame that begins here, with the four bytes that say it.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    let len = u32::from_be_bytes(*bytes.first_chunk()?);
    usize::try_from(len).ok()?.checked_add(4)
}

#[derive(Default)]
pub(super) struct Circuits {
    open: BTreeMap<u64, Circuit>,
    numbered: u64,
}

impl Circuits {
    /// A number that no connection or listener had before.
    pub(super) const fn number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }
}

struct Circuit {
    ends: [Side; 2],
    /// Each flows towards the end of the same index.
    pipes: [Pipe; 2],
}

/// One end as the network sees it.
struct Side {
    address: SocketAddr,
    incarnation: u64,
    open: bool,
    broken: Option<io::ErrorKind>,
}

struct Pipe {
    segments: VecDeque<(Monotonic, Segment)>,
    arrived: VecDeque<Bytes>,
    /// Bytes in both.
    held: usize,
    scheduled: bool,
    finished: bool,
    /// Since when nothing gets through, and the wait before the last attempt.
    stalled: Option<(Monotonic, Duration)>,
    /// Bytes until the next frame begins; `None` once that is not known.
    frame_left: Option<usize>,
    /// A frame that comes once more, from this time on.
    again: Option<(Monotonic, Bytes)>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Default for Pipe {
    fn default() -> Self {
        Self {
            segments: VecDeque::new(),
            arrived: VecDeque::new(),
            held: 0,
            scheduled: false,
            finished: false,
            stalled: None,
            frame_left: Some(0),
            again: None,
            reader: None,
            writer: None,
        }
    }
}

enum Segment {
    Data(Bytes),
    Fin,
    Reset,
}

/// An end of a circuit, as its driver holds it.
pub(super) struct Wire {
    world: Arc<World>,
    circuit: u64,
    me: usize,
}

impl State {
    /// Opens the circuit `number`; each end is an address and the incarnation of its host.
    pub(super) fn connect(&mut self, number: u64, ends: [(SocketAddr, u64); 2]) {
        let ends = ends.map(|(address, incarnation)| Side { address, incarnation, open: true, broken: None });
        self.circuits.open.insert(number, Circuit { ends, pipes: Default::default() });
    }

    /// The first segment of a pipe is due.
    pub(super) fn deliver(&mut self, way: Way) -> Vec<Waker> {
        let Some(circuit) = self.circuits.open.get_mut(&way.circuit) else { return Vec::new() };
        let (from, to) = (&circuit.ends[1 - way.to], &circuit.ends[way.to]);
        circuit.pipes[way.to].scheduled = false;
        let receiver = self.hosts.get(&to.address.ip());
        let reached =
            !self.links.is_cut(from.address.ip(), to.address.ip()) && receiver.is_some_and(|host| host.up);
        if !reached {
            return self.stall(way);
        }
        if !to.open || receiver.is_some_and(|host| host.incarnation != to.incarnation) {
            circuit.pipes[way.to].segments.clear();
            self.timers.set(self.now + RETRANSMIT / 200, Due::Reset(way));
            return Vec::new();
        }
        let pipe = &mut circuit.pipes[way.to];
        pipe.stalled = None;
        let mut woken = Vec::new();
        while let Some((at, _)) = pipe.segments.front()
            && *at <= self.now
        {
            match pipe.segments.pop_front() {
                Some((_, Segment::Data(bytes))) => pipe.arrived.push_back(bytes),
                Some((_, Segment::Fin)) => pipe.finished = true,
                _ => circuit.ends[way.to].broken = Some(io::ErrorKind::ConnectionReset),
            }
        }
        woken.extend(pipe.reader.take());
        if circuit.ends[way.to].broken.is_some() {
            woken.extend(circuit.pipes[1 - way.to].writer.take());
        }
        self.schedule(way);
        woken
    }

    /// Sets the arrival of the first segment unless it is set.
    fn schedule(&mut self, way: Way) {
        let Some(circuit) = self.circuits.open.get_mut(&way.circuit) else { return };
        let pipe = &mut circuit.pipes[way.to];
        if let Some((at, _)) = pipe.segments.front()
            && !pipe.scheduled
        {
            pipe.scheduled = true;
            self.timers.set(*at, Due::Deliver(way));
        }
    }

    /// Nothing gets through now: tries again later, or gives up.
    fn stall(&mut self, way: Way) -> Vec<Waker> {
        let now = self.now;
        let Some(circuit) = self.circuits.open.get_mut(&way.circuit) else { return Vec::new() };
        let from = &mut circuit.ends[1 - way.to];
        let lives = self
            .hosts
            .get(&from.address.ip())
            .is_some_and(|host| host.incarnation == from.incarnation && host.up);
        let pipe = &mut circuit.pipes[way.to];
        let (since, last) = pipe.stalled.unwrap_or((now, RETRANSMIT / 2));
        if !lives {
            pipe.segments.clear();
            return Vec::new();
        }
        if now.since(since) >= GIVE_UP {
            pipe.segments.clear();
            from.broken = Some(io::ErrorKind::TimedOut);
            return circuit.wake(1 - way.to);
        }
        let wait = (last * 2).min(RETRANSMIT_MAX);
        pipe.stalled = Some((since, wait));
        pipe.scheduled = true;
        let jitter = self.weather.duration(&(Duration::ZERO..wait / 4));
        self.timers.set(now + wait + jitter, Due::Deliver(way));
        Vec::new()
    }

    /// The sender learns that its peer knows nothing of the connection.
    pub(super) fn reset(&mut self, way: Way) -> Vec<Waker> {
        let Some(circuit) = self.circuits.open.get_mut(&way.circuit) else { return Vec::new() };
        let (from, to) = (circuit.ends[1 - way.to].address.ip(), circuit.ends[way.to].address.ip());
        if self.links.is_cut(to, from) {
            self.timers.set(self.now + RETRANSMIT_MAX, Due::Reset(way));
            return Vec::new();
        }
        circuit.ends[1 - way.to].broken = Some(io::ErrorKind::ConnectionReset);
        circuit.wake(1 - way.to)
    }

    fn write(&mut self, way: Way, bytes: Bytes) {
        let Some(circuit) = self.circuits.open.get_mut(&way.circuit) else { return };
        let (from, to) = (circuit.ends[1 - way.to].address.ip(), circuit.ends[way.to].address.ip());
        self.trace.fold(way.circuit << 1 | way.to as u64);
        self.trace.fold_bytes(&bytes);
        let mut bytes = bytes;
        if self.links.duplicates(from, to, &mut self.weather) {
            let later = self.now + self.weather.duration(&LATER);
            circuit.pipes[way.to].repeat(later, &bytes);
        }
        if let Some(again) = circuit.pipes[way.to].pass(self.now, &bytes) {
            // Before the others: it is only now that a frame begins.
            bytes = [again, bytes].concat().into();
        }
        // Cut at a random place now and then, so that readers meet parts of frames.
        let cut = if bytes.len() > 1 && self.weather.below(4) == 0 {
            1 + self.weather.below(bytes.len() as u64 - 1) as usize
        } else {
            bytes.len()
        };
        let first = bytes.split_to(cut);
        for bytes in [first, bytes] {
            if bytes.is_empty() {
                continue;
            }
            let bytes = self.links.carried(from, to, bytes, &mut self.weather);
            match self.links.fate(from, to, &mut self.weather) {
                Fate::Arrives(delay) => {
                    let pipe = &mut circuit.pipes[way.to];
                    pipe.held += bytes.len();
                    pipe.push(self.now + delay, Segment::Data(bytes));
                }
                Fate::Resets => {
                    circuit.ends[1 - way.to].broken = Some(io::ErrorKind::ConnectionReset);
                    circuit.pipes[way.to].push(self.now, Segment::Reset);
                    break;
                }
            }
        }
        self.schedule(way);
    }

    fn close(&mut self, circuit: u64, me: usize) {
        let Some(open) = self.circuits.open.get_mut(&circuit) else { return };
        open.ends[me].open = false;
        if !open.ends[1 - me].open {
            self.circuits.open.remove(&circuit);
            return;
        }
        let (from, to) = (open.ends[me].address.ip(), open.ends[1 - me].address.ip());
        let lives = self
            .hosts
            .get(&from)
            .is_some_and(|host| host.up && host.incarnation == open.ends[me].incarnation);
        if lives && open.ends[me].broken.is_none() {
            let segment = match self.links.fate(from, to, &mut self.weather) {
                Fate::Arrives(delay) => (delay, Segment::Fin),
                Fate::Resets => (Duration::ZERO, Segment::Reset),
            };
            open.pipes[1 - me].push(self.now + segment.0, segment.1);
        }
        self.schedule(Way { circuit, to: 1 - me });
    }
}

impl Circuit {
    /// Everybody who waits for an end.
    fn wake(&mut self, end: usize) -> Vec<Waker> {
        [self.pipes[end].reader.take(), self.pipes[1 - end].writer.take()].into_iter().flatten().collect()
    }
}

impl Pipe {
    /// Keeps the first frame of a write, if one begins here and is whole, to send it again.
    fn repeat(&mut self, later: Monotonic, bytes: &Bytes) {
        let Some(len) = frame_len(bytes).filter(|len| *len <= bytes.len()) else { return };
        if self.frame_left == Some(0) && self.again.is_none() {
            self.again = Some((later, bytes.slice(..len)));
        }
    }

    /// Follows where frames begin; the frame that is due once more, if one begins here.
    fn pass(&mut self, now: Monotonic, bytes: &Bytes) -> Option<Bytes> {
        let begins = self.frame_left == Some(0);
        let mut rest = bytes.clone();
        while let Some(left) = self.frame_left
            && !rest.is_empty()
        {
            let left = if left == 0 { frame_len(&rest) } else { Some(left) };
            let taken = left.map_or(0, |left| left.min(rest.len()));
            rest.advance(taken);
            self.frame_left = left.map(|left| left - taken);
        }
        self.again.take_if(|(at, _)| begins && *at <= now).map(|(_, frame)| frame)
    }

    /// Never before what was sent earlier.
    fn push(&mut self, at: Monotonic, segment: Segment) {
        let last = self.segments.back().map_or(at, |(last, _)| *last);
        self.segments.push_back((at.max(last), segment));
    }
}

impl Wire {
    /// Both ends of the circuit `number`.
    pub(super) fn pair(world: &Arc<World>, number: u64) -> [Self; 2] {
        [0, 1].map(|me| Self { world: Arc::clone(world), circuit: number, me })
    }
}

impl Stream for Wire {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        let mut state = self.world.lock();
        let Some(circuit) = state.circuits.open.get_mut(&self.circuit) else { return Poll::Ready(Ok(0)) };
        if let Some(kind) = circuit.ends[self.me].broken {
            return Poll::Ready(Err(kind.into()));
        }
        let pipe = &mut circuit.pipes[self.me];
        if pipe.arrived.is_empty() && !pipe.finished {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut read = 0;
        while let Some(bytes) = pipe.arrived.front_mut()
            && buffer.len() < buffer.capacity()
        {
            let taken = bytes.len().min(buffer.capacity() - buffer.len());
            buffer.extend_from_slice(&bytes[..taken]);
            bytes.advance(taken);
            read += taken;
            if bytes.is_empty() {
                pipe.arrived.pop_front();
            }
        }
        pipe.held -= read;
        let writer = pipe.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
        Poll::Ready(Ok(read))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut state = self.world.lock();
        let Some(circuit) = state.circuits.open.get_mut(&self.circuit) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        if let Some(kind) = circuit.ends[self.me].broken {
            return Poll::Ready(Err(kind.into()));
        }
        let pipe = &mut circuit.pipes[1 - self.me];
        let space = WINDOW.saturating_sub(pipe.held);
        if space == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let total = slices.iter().map(|slice| slice.len()).sum::<usize>().min(space);
        let mut bytes = Vec::with_capacity(total);
        for slice in slices {
            let taken = slice.len().min(total - bytes.len());
            bytes.extend_from_slice(&slice[..taken]);
        }
        state.write(Way { circuit: self.circuit, to: 1 - self.me }, bytes.into());
        Poll::Ready(Ok(total))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.world.lock().close(self.circuit, self.me);
    }
}
