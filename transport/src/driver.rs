//! What moves a connection: one future per end, the same for every kind of stream.
//!
//! ```text
//!   take what is queued ──> one vectored write ──> one read ──> decode all ──> Service::turn ─┐
//!        ^                                          │ nothing                                │
//!        │                                          v                                        │
//!        │                                         park until bytes, frames or a deadline    │
//!        └────────────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::future::Future;
use std::io::{self, IoSlice};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;

use crate::end::{End, Parked};
use crate::outbox::{Outbox, SLICES_MAX};
use crate::{BoxFuture, CloseReason, Command, Connection, FrameDecoder, Monotonic, Service};

/// Turns before other tasks get theirs.
const TURNS_PER_POLL: usize = 8;

/// Room for one read.
const READ_BYTES: usize = 64 << 10;

/// A part of a frame up to this size is copied, so that the buffer it was read into can serve
/// other connections.
const COPIED_UP_TO: usize = 4 << 10;

/// A buffer that grew above this for a large frame is not kept.
const KEPT_BYTES: usize = 1 << 20;

/// Bytes both ways, without knowing what they mean.
pub(crate) trait Stream: Send + Unpin + 'static {
    /// Appends what there is to `buffer`, at most its spare capacity. 0: the peer is done.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>>;
    /// Takes some bytes from the front of `slices`.
    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;
}

/// What the driver that runs needs and all others share: connections at rest own no buffers.
#[derive(Default)]
pub(crate) struct Workspaces(Mutex<Vec<Workspace>>);

#[derive(Default)]
struct Workspace {
    buffer: BytesMut,
    requests: Vec<Command>,
    answers: Vec<Command>,
    woken: Vec<Waker>,
}

impl Workspaces {
    fn take(&self) -> Workspace {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn put(&self, space: Workspace) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(space);
    }
}

/// Runs one end of a connection until it closes.
pub(crate) struct Driver<S: Stream> {
    end: Arc<End>,
    connection: Connection,
    service: Arc<dyn Service>,
    spaces: Arc<Workspaces>,
    /// `None` once closed.
    stream: Option<S>,
    opened: bool,
    decoder: FrameDecoder,
    writing: Outbox,
    timer: Option<(Monotonic, BoxFuture<'static, ()>)>,
    last_activity: Monotonic,
    /// When the first bytes of an incomplete frame arrived.
    frame_started: Option<Monotonic>,
}

impl<S: Stream> Driver<S> {
    pub(crate) fn new(end: Arc<End>, stream: S, service: Arc<dyn Service>, spaces: Arc<Workspaces>) -> Self {
        Self {
            connection: Connection::new(Arc::clone(&end) as Arc<_>),
            last_activity: end.runtime.now(),
            end,
            service,
            spaces,
            stream: Some(stream),
            opened: false,
            decoder: FrameDecoder::new(),
            writing: Outbox::default(),
            timer: None,
            frame_started: None,
        }
    }

    fn run(&mut self, cx: &mut Context<'_>, space: &mut Workspace) -> Poll<CloseReason> {
        if !std::mem::replace(&mut self.opened, true)
            && let Err(reason) = self.caught(|| self.service.opened(&self.connection))
        {
            return Poll::Ready(reason);
        }
        for _ in 0..TURNS_PER_POLL {
            match self.pass(cx, space) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(reason) => return Poll::Ready(reason),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes, then reads and takes one turn; false when parked.
    fn pass(&mut self, cx: &mut Context<'_>, space: &mut Workspace) -> Result<bool, CloseReason> {
        let mut reading = self.end.take_outgoing(&mut self.writing)?;
        if self.writing.len() > 0 {
            reading = self.write(cx)?;
        }
        if reading {
            match self.read(cx, space) {
                Poll::Ready(Ok(0)) => return Err(CloseReason::Peer),
                Poll::Ready(Ok(bytes)) => return self.turn(cx, space, bytes).map(|()| true),
                Poll::Ready(Err(error)) => return Err(CloseReason::Io(error.kind())),
                Poll::Pending => {}
            }
        } else if self.frame_started.is_some() {
            // It is we who do not read.
            self.frame_started = Some(self.end.runtime.now());
        }
        self.park(cx, reading)
    }

    /// Writes as much as the stream takes; whether reading is allowed now.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let Some(stream) = &mut self.stream else { return Err(CloseReason::Local) };
        let mut written = 0;
        while self.writing.len() > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let used = self.writing.slices(&mut slices);
            match stream.poll_write(cx, &slices[..used]) {
                Poll::Ready(Ok(bytes)) => {
                    self.writing.advance(bytes);
                    written += bytes;
                }
                Poll::Ready(Err(error)) => return Err(CloseReason::Io(error.kind())),
                Poll::Pending => break,
            }
        }
        if written > 0 {
            self.last_activity = self.end.runtime.now();
        }
        Ok(self.end.written(written))
    }

    fn read(&mut self, cx: &mut Context<'_>, space: &mut Workspace) -> Poll<io::Result<usize>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(0)) };
        let buffer = self.decoder.buffer();
        if buffer.len() <= COPIED_UP_TO {
            space.buffer.clear();
            space.buffer.reserve(READ_BYTES);
            if space.buffer.capacity() > KEPT_BYTES {
                space.buffer = BytesMut::with_capacity(READ_BYTES + COPIED_UP_TO);
            }
            space.buffer.extend_from_slice(buffer);
            std::mem::swap(buffer, &mut space.buffer);
        } else {
            // Grows with what arrived, not with what was declared.
            buffer.reserve(READ_BYTES);
        }
        let read = stream.poll_read(cx, buffer);
        if !matches!(read, Poll::Ready(Ok(_))) {
            self.rest(space);
        }
        read
    }

    /// Gives the buffer back unless much of a frame is in it.
    fn rest(&mut self, space: &mut Workspace) {
        let buffer = self.decoder.buffer();
        if buffer.len() <= COPIED_UP_TO {
            let part = BytesMut::from(&buffer[..]);
            space.buffer = std::mem::replace(buffer, part);
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>, space: &mut Workspace, bytes: usize) -> Result<(), CloseReason> {
        self.last_activity = self.end.runtime.now();
        let (mut frames, mut wanted) = (0, 0);
        let broken = loop {
            match self.decoder.next() {
                Ok(Some(command)) => {
                    frames += 1;
                    self.end.watch.arrived(&self.end, &command);
                    if command.is_response() {
                        space.answers.push(command);
                    } else {
                        wanted += usize::from(!command.is_one_way());
                        space.requests.push(command);
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(CloseReason::Protocol(error)),
            }
        };
        if self.decoder.pending() == 0 {
            self.frame_started = None;
        } else if frames > 0 || self.frame_started.is_none() {
            self.frame_started = Some(self.last_activity);
        }
        self.rest(space);
        let bytes = if wanted > 0 { bytes } else { 0 };
        self.end.received(&mut space.answers, wanted, bytes, &mut space.woken);
        if !space.requests.is_empty() {
            let turn = self.caught(|| self.service.turn(&self.connection, &mut space.requests));
            space.requests.clear();
            turn?;
        }
        match broken {
            None => Ok(()),
            Some(reason) => {
                // What was asked before the broken frame gets its answers.
                self.end.take_outgoing(&mut self.writing)?;
                self.write(cx)?;
                Err(reason)
            }
        }
    }

    /// Parks unless something is to be done; false when parked.
    fn park(&mut self, cx: &mut Context<'_>, reading: bool) -> Result<bool, CloseReason> {
        loop {
            let Parked::Until(call) = self.end.park(cx.waker(), reading) else { return Ok(true) };
            let frame = self.frame_started.filter(|_| reading).map(|started| started + self.end.limits.frame);
            let idle = self.last_activity + self.end.limits.idle;
            let due = [Some(idle), frame, call].into_iter().flatten().min().unwrap_or(idle);
            // A timer that is too early costs one look; set anew for every frame it would cost more.
            if self.timer.as_ref().is_none_or(|(at, _)| *at > due) {
                self.timer = Some((due, self.end.runtime.sleep_until(due)));
            }
            let Some((_, timer)) = &mut self.timer else { return Ok(false) };
            if timer.as_mut().poll(cx).is_pending() {
                return Ok(false);
            }
            self.timer = None;
            let now = self.end.runtime.now();
            if now >= idle {
                return Err(if self.writing.len() > 0 { CloseReason::Backlog } else { CloseReason::Idle });
            }
            if frame.is_some_and(|frame| now >= frame) {
                return Err(CloseReason::Idle);
            }
            self.end.expire(now);
        }
    }

    /// Runs code of the service; its panic ends the connection, not the thread.
    fn caught(&self, run: impl FnOnce()) -> Result<(), CloseReason> {
        catch_unwind(AssertUnwindSafe(run)).map_err(|payload| {
            self.end.watch.panicked(payload);
            CloseReason::Panicked
        })
    }

    fn finish(&mut self, reason: &CloseReason) {
        self.stream = None;
        self.timer = None;
        self.end.finish(reason);
        // A panic here has nothing left to close.
        let _ = self.caught(|| self.service.closed(&self.connection, reason));
    }
}

impl<S: Stream> Future for Driver<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let mut space = this.spaces.take();
        let run = this.run(cx, &mut space);
        this.spaces.put(space);
        run.map(|reason| this.finish(&reason))
    }
}

impl<S: Stream> Drop for Driver<S> {
    fn drop(&mut self) {
        if self.stream.take().is_some() {
            self.end.finish(&CloseReason::Local);
        }
    }
}
