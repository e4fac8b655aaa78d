//! One end of a connection: what its handles and its driver share.
//!
//! Whoever sends encodes into the outbox under the lock. The driver takes the outbox whole, writes
//! without the lock, and leaves its waker here only while it is parked: so the first frame queued
//! behind its back wakes it, and the next thousand do not.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::calls::Calls;
use crate::connection::ConnectionEnd;
use crate::limits::Limits;
use crate::outbox::Outbox;
use crate::{Call, CallError, CloseReason, Command, ConnectionId, Monotonic, Runtime, SendError};

/// Sees what passes an end.
pub(crate) trait Watch: Send + Sync {
    /// A frame was queued.
    fn sent(&self, _end: &End, _command: &Command) {}
    /// A frame arrived.
    fn arrived(&self, _end: &End, _command: &Command) {}
    /// So many answers arrived that no call waits for.
    fn stray(&self, count: u64);
    /// The connection ended.
    fn closed(&self, _end: &End, _reason: &CloseReason) {}
    /// The service panicked with this.
    fn panicked(&self, _payload: Box<dyn Any + Send>) {}
}

pub(crate) struct End {
    pub(crate) id: ConnectionId,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) limits: Arc<Limits>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) watch: Arc<dyn Watch>,
    me: Weak<Self>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    outbox: Outbox,
    /// Bytes the driver took and has not written yet.
    writing: usize,
    /// At least the bytes of answers among those not written yet.
    unsent_answers: usize,
    unanswered: Unanswered,
    calls: Calls,
    closing: Option<CloseReason>,
    /// The driver, while it is parked.
    driver: Option<Waker>,
}

/// Requests of the peer that wait for their answers.
#[derive(Default)]
struct Unanswered {
    requests: usize,
    bytes: usize,
}

impl Unanswered {
    const fn add(&mut self, requests: usize, bytes: usize) {
        self.requests += requests;
        self.bytes += bytes;
    }

    /// Forgets one request of average size.
    const fn answered(&mut self) {
        if let Some(share) = self.bytes.checked_div(self.requests) {
            self.bytes -= share;
            self.requests -= 1;
        }
        if self.requests == 0 {
            self.bytes = 0;
        }
    }
}

/// What a driver that wants to park has to do instead, or when to look again.
pub(crate) enum Parked {
    /// Something changed meanwhile.
    No,
    /// Parked; the earliest deadline of a call.
    Until(Option<Monotonic>),
}

/// Names the ends of one connection and what they use.
pub(crate) struct Parts {
    pub(crate) id: ConnectionId,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) limits: Arc<Limits>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) watch: Arc<dyn Watch>,
}

impl End {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts { id, local, peer, limits, runtime, watch } = parts;
        Arc::new_cyclic(|me| Self {
            id,
            local,
            peer,
            limits,
            runtime,
            watch,
            me: me.clone(),
            state: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves all queued frames behind `writing`; whether the driver may read.
    pub(crate) fn take_outgoing(&self, writing: &mut Outbox) -> Result<bool, CloseReason> {
        let mut state = self.lock();
        if let Some(reason) = &state.closing {
            return Err(reason.clone());
        }
        state.driver = None;
        state.writing += state.outbox.len();
        writing.append(&mut state.outbox);
        Ok(self.may_read(&state))
    }

    /// Notes that so many bytes left; whether the driver may read.
    pub(crate) fn written(&self, bytes: usize) -> bool {
        let mut state = self.lock();
        state.writing -= bytes;
        state.unsent_answers = state.unsent_answers.min(state.unsent());
        self.may_read(&state)
    }

    /// Notes what one read delivered: answers go to their calls, requests are counted.
    pub(crate) fn received(
        &self,
        answers: &mut Vec<Command>,
        requests: usize,
        bytes: usize,
        woken: &mut Vec<Waker>,
    ) {
        let mut strays = 0;
        let mut state = self.lock();
        state.unanswered.add(requests, bytes);
        for answer in answers.drain(..) {
            strays += u64::from(!state.calls.answer(answer, woken));
        }
        drop(state);
        if strays > 0 {
            self.watch.stray(strays);
        }
        woken.drain(..).for_each(Waker::wake);
    }

    /// Leaves `waker` unless there is something to do: frames to write, a close, or permission to
    /// read for a driver that had none.
    pub(crate) fn park(&self, waker: &Waker, reading: bool) -> Parked {
        let mut state = self.lock();
        if state.closing.is_some() || state.outbox.len() > 0 || (!reading && self.may_read(&state)) {
            return Parked::No;
        }
        state.driver = Some(waker.clone());
        Parked::Until(state.calls.deadline())
    }

    /// Ends the calls whose time has come.
    pub(crate) fn expire(&self, now: Monotonic) {
        let mut woken = Vec::new();
        self.lock().calls.expire(now, &mut woken);
        woken.into_iter().for_each(Waker::wake);
    }

    /// The connection is gone: fails the calls and refuses everything from now on.
    pub(crate) fn finish(&self, reason: &CloseReason) {
        let mut woken = Vec::new();
        let mut state = self.lock();
        state.closing.get_or_insert_with(|| reason.clone());
        state.outbox = Outbox::default();
        state.driver = None;
        state.calls.fail(CallError::Closed, &mut woken);
        drop(state);
        self.watch.closed(self, reason);
        woken.into_iter().for_each(Waker::wake);
    }

    fn may_read(&self, state: &State) -> bool {
        state.unsent_answers < self.limits.unsent_answer_bytes
            && state.unanswered.requests < self.limits.unanswered_requests
            && state.unanswered.bytes < self.limits.unanswered_bytes
    }

    fn push(&self, state: &mut State, command: &Command) -> Result<(), SendError> {
        if state.closing.is_some() {
            return Err(SendError::Closed);
        }
        if state.unsent() >= self.limits.unsent_bytes {
            state.closing = Some(CloseReason::Backlog);
            state.outbox = Outbox::default();
            return Err(SendError::Backlog);
        }
        let frame = state.outbox.push(command);
        if command.is_response() {
            // An answer that cannot be expressed is none, but nobody will send another.
            state.unanswered.answered();
            state.unsent_answers += frame.as_ref().copied().unwrap_or(0);
        }
        frame?;
        self.watch.sent(self, command);
        Ok(())
    }
}

impl State {
    const fn unsent(&self) -> usize {
        self.outbox.len() + self.writing
    }
}

impl ConnectionEnd for End {
    fn id(&self) -> ConnectionId {
        self.id
    }

    fn local(&self) -> SocketAddr {
        self.local
    }

    fn peer(&self) -> SocketAddr {
        self.peer
    }

    fn send(&self, command: Command) -> Result<(), SendError> {
        let mut state = self.lock();
        let sent = self.push(&mut state, &command);
        wake(state);
        sent
    }

    fn send_all(&self, commands: &mut Vec<Command>) -> Result<(), SendError> {
        let mut state = self.lock();
        let mut sent = Ok(());
        for command in commands.drain(..) {
            sent = sent.and(self.push(&mut state, &command));
        }
        wake(state);
        sent
    }

    fn call(&self, mut request: Command, limit: Duration) -> Call {
        let deadline = self.runtime.now() + limit;
        let mut state = self.lock();
        let opaque = state.calls.open(deadline);
        request.opaque = opaque;
        let sent = self.push(&mut state, &request);
        if sent.is_err() {
            state.calls.forget(opaque);
        }
        wake(state);
        match sent {
            Ok(()) => Call::new(Waiting {
                end: self.me.upgrade().expect("called through a shared handle"),
                opaque: Some(opaque),
            }),
            Err(error) => Call::new(std::future::ready(Err(CallError::Send(error)))),
        }
    }

    fn close(&self) {
        let mut state = self.lock();
        state.closing.get_or_insert(CloseReason::Local);
        state.outbox = Outbox::default();
        wake(state);
    }

    fn is_open(&self) -> bool {
        self.lock().closing.is_none()
    }
}

/// Wakes the driver if it is parked: there is a frame, a close, or an answer less to wait for.
fn wake(mut state: MutexGuard<'_, State>) {
    let driver = state.driver.take();
    drop(state);
    if let Some(driver) = driver {
        driver.wake();
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.id.0, self.local, self.peer)
    }
}

/// The future behind a [`Call`].
struct Waiting {
    end: Arc<End>,
    /// `None` once the answer was given out.
    opaque: Option<i32>,
}

impl Future for Waiting {
    type Output = Result<Command, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let opaque = self.opaque.expect("a future is not polled after it is ready");
        let answer = self.end.lock().calls.poll(opaque, cx.waker());
        if answer.is_ready() {
            self.opaque = None;
        }
        answer
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(opaque) = self.opaque {
            self.end.lock().calls.forget(opaque);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Network;

    struct Unwatched;

    impl Watch for Unwatched {
        fn stray(&self, _count: u64) {}
    }

    fn end(network: &Network, limits: Limits) -> Arc<End> {
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        End::new(Parts {
            id: ConnectionId(1),
            local: address,
            peer: address,
            limits: Arc::new(limits),
            runtime: Arc::new(network.host(address.ip())),
            watch: Arc::new(Unwatched),
        })
    }

    /// proves: B27, M45
    #[test]
    fn calls_that_are_dropped_in_any_state_leave_no_entry() {
        let network = Network::seeded(1);
        let end = end(&network, Limits::default());
        let limit = Duration::from_secs(1);
        drop(end.call(Command::request(1), limit));
        let expired = end.call(Command::request(1), limit);
        end.expire(end.runtime.now() + limit);
        drop(expired);
        end.send(Command::one_way(1)).unwrap();
        let failed = end.call(Command::request(1), limit);
        end.finish(&CloseReason::Peer);
        drop(failed);
        drop(end.call(Command::request(1), limit));
        assert_eq!(end.lock().calls.len(), (0, 0));
    }

    #[test]
    fn frames_in_flight_wake_a_parked_driver_once() {
        let network = Network::seeded(1);
        let end = end(&network, Limits::default());
        assert!(matches!(end.park(Waker::noop(), true), Parked::Until(None)));
        assert!(end.lock().driver.is_some());
        for _ in 0..3 {
            end.send(Command::one_way(1)).unwrap();
            assert!(end.lock().driver.is_none(), "the first frame took the waker");
        }
        assert!(matches!(end.park(Waker::noop(), true), Parked::No));
        let mut writing = Outbox::default();
        assert_eq!(end.take_outgoing(&mut writing), Ok(true));
        assert!(matches!(end.park(Waker::noop(), true), Parked::Until(None)));
    }

    #[test]
    fn an_answer_that_cannot_be_expressed_lets_the_reading_go_on() {
        let network = Network::seeded(1);
        let end = end(&network, Limits { unanswered_requests: 1, ..Limits::default() });
        end.received(&mut Vec::new(), 1, 100, &mut Vec::new());
        assert!(matches!(end.park(Waker::noop(), false), Parked::Until(None)));
        let mut answer = Command::request(1).answer(200_050);
        answer.encoding = crate::HeaderEncoding::Binary;
        assert_eq!(end.send(answer), Err(SendError::Inexpressible));
        assert!(end.lock().driver.is_none(), "woken to read");
        assert!(matches!(end.park(Waker::noop(), false), Parked::No));
    }
}
