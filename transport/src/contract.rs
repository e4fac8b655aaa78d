//! What every transport promises, as tests that run on any of them.
//!
//! Implement [`World`] and let [`contract_tests!`](crate::contract_tests) make a test of each row:
//!
//! ```ignore
//! staticfire_transport::contract_tests!(MyWorld);
//! ```
//! The rows are public functions as well; each builds its own world and panics if a promise is
//! broken.

mod calls;
mod closing;
mod pressure;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::limits::Limits;
use crate::{
    BoxFuture, CloseReason, Command, Connection, HeaderEncoding, Listener, Runtime, Service, Transport,
};

pub use calls::*;
pub use closing::*;
pub use pressure::*;

/// Longer than anything in the suite takes, also on a busy machine.
pub const LONG: Duration = Duration::from_secs(20);

/// Two hosts on an implementation.
pub trait World: Sized {
    /// Starts the hosts with these limits for their connections. Panics of services must not end
    /// the test.
    fn start(limits: Limits) -> Self;

    /// A host's transport.
    fn transport(&self, host: Place) -> Arc<dyn Transport>;

    /// A host's runtime.
    fn runtime(&self, host: Place) -> Arc<dyn Runtime>;

    /// An address of the server with port 0.
    fn server_address(&self) -> SocketAddr;

    /// Runs `future` to its end; panics if that takes longer than [`LONG`].
    fn block_on<T>(&self, future: impl Future<Output = T>) -> T;

    /// Connects from the client without any protocol.
    fn raw(&self, to: SocketAddr) -> impl Raw;
}

/// A stream of bytes whose other end is a connection.
pub trait Raw {
    /// Sends all bytes, or as many as the other end takes before it stops reading or closes.
    fn write(&mut self, bytes: &[u8]);

    /// Reads until so many bytes have arrived or the other end closes.
    fn read(&mut self, bytes: usize) -> Vec<u8>;
}

/// One of the two hosts of a [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The one that listens.
    Server,
    /// The one that dials.
    Client,
}

/// Makes a `#[test]` of every row of the contract for a [`contract::World`](crate::contract::World).
#[macro_export]
macro_rules! contract_tests {
    ($world:ty) => {
        $crate::contract_tests!(@rows $world:
            a_call_gets_the_answer_of_its_opaque,
            both_ends_know_the_addresses,
            nobody_listens_is_refused,
            an_address_is_listened_to_once,
            answers_in_any_order_find_their_calls,
            a_one_way_request_gets_no_answer_and_keeps_its_place,
            an_answer_may_come_later_from_elsewhere,
            both_ends_may_ask,
            an_answer_from_another_connection_is_ignored,
            a_call_without_an_answer_times_out_and_the_connection_goes_on,
            a_dropped_call_is_forgotten,
            thousands_of_calls_are_in_flight,
            frames_that_arrive_together_are_one_turn,
            sent_together_arrives_in_order,
            closing_fails_the_calls_and_is_told_once_to_each_end,
            the_server_may_close,
            a_dropped_listener_refuses_and_keeps_what_it_accepted,
            a_panic_ends_its_connection_only,
            a_silent_peer_is_closed_when_idle,
            a_frame_that_never_ends_is_closed,
            a_frame_that_trickles_is_closed_in_time,
            what_comes_after_the_end_is_not_read,
            what_is_no_frame_closes_after_the_frames_before_it,
            a_huge_length_closes_at_once,
            a_frame_above_the_limit_is_refused_and_harms_nothing,
            a_peer_that_never_reads_is_closed_by_what_it_is_sent,
            a_peer_that_never_reads_its_answers_is_read_no_more,
            unanswered_requests_stop_the_reading_until_they_are_answered,
            large_bodies_arrive_whole,
        );
    };
    (@rows $world:ty: $($row:ident,)*) => {
        $(#[test]
        fn $row() {
            $crate::contract::$row::<$world>();
        })*
    };
}

/// Values on their way from services to the test.
struct Mailbox<T>(Mutex<(VecDeque<T>, Option<Waker>)>);

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self(Mutex::new((VecDeque::new(), None)))
    }
}

impl<T> Mailbox<T> {
    fn lock(&self) -> MutexGuard<'_, (VecDeque<T>, Option<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, value: T) {
        let mut inner = self.lock();
        inner.0.push_back(value);
        let waker = inner.1.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn take(&self) -> T {
        poll_fn(|cx| {
            let mut inner = self.lock();
            match inner.0.pop_front() {
                Some(value) => Poll::Ready(value),
                None => {
                    inner.1 = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn is_empty(&self) -> bool {
        self.lock().0.is_empty()
    }
}

type Act = Box<dyn Fn(&Connection, &mut Vec<Command>) + Send + Sync>;

/// Tells the test what happened, and does with requests what the row wants.
struct Observed {
    opened: Mailbox<Connection>,
    closed: Mailbox<CloseReason>,
    act: Act,
}

impl Observed {
    fn new(act: impl Fn(&Connection, &mut Vec<Command>) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { opened: Mailbox::default(), closed: Mailbox::default(), act: Box::new(act) })
    }

    /// Answers with what was asked.
    fn echo() -> Arc<Self> {
        Self::new(|connection, requests| {
            for request in requests.drain(..).filter(|request| !request.is_one_way()) {
                // A peer that is gone needs no answer.
                let _ = connection.send(echo(&request));
            }
        })
    }

    /// Hands requests to the test.
    fn collect() -> (Arc<Self>, Arc<Mailbox<Command>>) {
        let inbox = Arc::new(Mailbox::default());
        let requests = Arc::clone(&inbox);
        (Self::new(move |_, arrived| arrived.drain(..).for_each(|request| requests.put(request))), inbox)
    }
}

fn echo(request: &Command) -> Command {
    let mut answer = request.answer(0).with_body(request.body.clone());
    answer.ext = request.ext.clone();
    answer
}

impl Service for Observed {
    fn opened(&self, connection: &Connection) {
        self.opened.put(connection.clone());
    }

    fn turn(&self, connection: &Connection, requests: &mut Vec<Command>) {
        (self.act)(connection, requests);
    }

    fn closed(&self, _connection: &Connection, reason: &CloseReason) {
        self.closed.put(reason.clone());
    }
}

/// A world with a listener.
struct Served<W> {
    world: W,
    server: Arc<Observed>,
    listener: Listener,
}

impl<W: World> Served<W> {
    fn new(limits: Limits, server: Arc<Observed>) -> Self {
        let world = W::start(limits);
        let transport = world.transport(Place::Server);
        let listener =
            transport.listen(world.server_address(), Arc::clone(&server) as Arc<_>).expect("a free port");
        Self { world, server, listener }
    }

    fn dial(&self, client: &Arc<Observed>) -> Connection {
        let connect = self
            .world
            .transport(Place::Client)
            .connect(self.listener.address(), Arc::clone(client) as Arc<_>);
        self.world.block_on(connect).expect("somebody listens")
    }

    fn call(&self, connection: &Connection, request: Command) -> Command {
        self.world.block_on(connection.call(request, LONG)).expect("an answer")
    }

    /// Asserts that the connection carries a call.
    fn works(&self, connection: &Connection) {
        assert_eq!(self.call(connection, Command::request(1).with_body("still")).body.to_bytes(), "still");
    }

    fn raw(&self) -> impl Raw {
        self.world.raw(self.listener.address())
    }
}

/// A frame as it is on the wire.
fn frame(command: &Command) -> Vec<u8> {
    let mut bytes = Vec::new();
    crate::frame::encode_header(command, &mut bytes).expect("a frame of reasonable size");
    bytes.extend_from_slice(&command.body.to_bytes());
    bytes
}

const ENCODINGS: [HeaderEncoding; 2] = [HeaderEncoding::Json, HeaderEncoding::Binary];

fn boxed<T>(future: impl Future<Output = T> + Send + 'static) -> BoxFuture<'static, T> {
    Box::pin(future)
}
