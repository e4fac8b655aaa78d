//! Connections, what is called when something arrives on them, and who opens them.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::{BoxFuture, Command};

/// Opens and accepts connections of one host.
pub trait Transport: fmt::Debug + Send + Sync {
    /// Accepts connections at `at` (port 0: a free one) until the returned listener is dropped.
    /// Everything that arrives on them goes to `service`.
    ///
    /// # Errors
    /// The address is in use or not of this host, or the system's error.
    fn listen(&self, at: SocketAddr, service: Arc<dyn Service>) -> io::Result<Listener>;

    /// Connects to `to`. Requests of the peer go to `service`; answers go to their [`Call`].
    /// Gives up after 3 s (remoting-protocol §1.1) with `TimedOut`.
    fn connect(
        &self,
        to: SocketAddr,
        service: Arc<dyn Service>,
    ) -> BoxFuture<'static, io::Result<Connection>>;

    /// The addresses of the host `name`, best first. Knows none unless implemented.
    fn lookup(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let unknown = io::Error::new(io::ErrorKind::NotFound, format!("host {name} is not known here"));
        Box::pin(std::future::ready(Err(unknown)))
    }
}

/// What a host does with what arrives on its connections.
///
/// All methods run on the thread (or step) that drives the connection and must not block.
pub trait Service: Send + Sync {
    /// A connection was accepted or established.
    fn opened(&self, _connection: &Connection) {}

    /// Every request that arrived in one turn of the connection, oldest first: whatever one read
    /// delivered. The vector is drained by the callee and reused by the caller. Frames sent
    /// during the call leave in one vectored write when it returns; an answer may also be sent
    /// later, from any thread. Nothing more is read from a peer that leaves too many of its
    /// requests unanswered or its answers unread, see [`Limits`](crate::Limits).
    fn turn(&self, connection: &Connection, requests: &mut Vec<Command>);

    /// The connection is gone; called once, after the last `turn`. Calls in flight on it have
    /// failed already.
    fn closed(&self, _connection: &Connection, _reason: &CloseReason) {}
}

/// Keeps a listening address open; dropping it stops accepting. Accepted connections stay.
pub struct Listener {
    address: SocketAddr,
    _open: Box<dyn Send + Sync>,
}

impl Listener {
    /// Wraps what keeps the address open until dropped.
    pub fn new(address: SocketAddr, open: impl Send + Sync + 'static) -> Self {
        Self { address, _open: Box::new(open) }
    }

    /// The address listened on, with the real port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").field(&self.address).finish()
    }
}

/// Names one connection of a host for ever: a reconnect has another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// One end of a connection. Cloning shares it; it closes when [`Connection::close`] is called,
/// when the peer goes, or on a violation of the protocol, not when handles are dropped.
#[derive(Clone, Debug)]
pub struct Connection(Arc<dyn ConnectionEnd>);

/// What an implementation provides for one end of a connection.
pub trait ConnectionEnd: fmt::Debug + Send + Sync {
    /// See [`Connection::id`].
    fn id(&self) -> ConnectionId;
    /// See [`Connection::local`].
    fn local(&self) -> SocketAddr;
    /// See [`Connection::peer`].
    fn peer(&self) -> SocketAddr;
    /// See [`Connection::send`].
    fn send(&self, command: Command) -> Result<(), SendError>;
    /// See [`Connection::send_all`].
    fn send_all(&self, commands: &mut Vec<Command>) -> Result<(), SendError>;
    /// See [`Connection::call`].
    fn call(&self, request: Command, limit: Duration) -> Call;
    /// See [`Connection::close`].
    fn close(&self);
    /// See [`Connection::is_open`].
    fn is_open(&self) -> bool;
}

impl Connection {
    /// Wraps an implementation's end.
    pub fn new(end: Arc<dyn ConnectionEnd>) -> Self {
        Self(end)
    }

    /// The incarnation of this connection.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.0.id()
    }

    /// This end's address.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.0.local()
    }

    /// The peer's address.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.0.peer()
    }

    /// Queues one frame: an answer (its `opaque` copied from the request) or a one-way request.
    /// Never blocks; bytes leave at the end of the turn or soon after.
    ///
    /// # Errors
    /// The connection is closed, or the peer does not read and the unsent bytes reached their
    /// limit: the connection is then closed.
    pub fn send(&self, command: Command) -> Result<(), SendError> {
        self.0.send(command)
    }

    /// Queues all frames and wakes the writer once. The vector is drained.
    ///
    /// # Errors
    /// As [`Connection::send`].
    pub fn send_all(&self, commands: &mut Vec<Command>) -> Result<(), SendError> {
        self.0.send_all(commands)
    }

    /// Sends a request (its `opaque` is replaced by one of this connection) and gives its answer,
    /// or an error after `limit`. The request leaves even if the call is never polled; dropping
    /// the call forgets it, and a late answer is then counted and ignored.
    #[must_use]
    pub fn call(&self, request: Command, limit: Duration) -> Call {
        self.0.call(request, limit)
    }

    /// Closes the connection at once; unsent frames are dropped and calls in flight fail.
    pub fn close(&self) {
        self.0.close();
    }

    /// False once the connection is closed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_open()
    }
}

/// The answer to a request, some day.
pub struct Call(BoxFuture<'static, Result<Command, CallError>>);

impl Call {
    /// Wraps the future of an implementation.
    pub fn new(answer: impl Future<Output = Result<Command, CallError>> + Send + 'static) -> Self {
        Self(Box::pin(answer))
    }
}

impl Future for Call {
    type Output = Result<Command, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Call")
    }
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The connection is closed.
    Closed,
    /// The peer reads too slowly: the limit on unsent bytes was reached and the connection closed.
    Backlog,
    /// The frame is larger than the limit of 16 MiB.
    TooLarge,
    /// The command cannot be expressed in its header encoding (a code above 32,767 in the binary
    /// one, a text over its length field).
    Inexpressible,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the connection is closed",
            Self::Backlog => "the peer does not read; the connection was closed",
            Self::TooLarge => "the frame is larger than 16 MiB",
            Self::Inexpressible => "the command does not fit its header encoding",
        })
    }
}

impl std::error::Error for SendError {}

/// Why a call has no answer. After anything but `Send(_)` the peer may have done what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The request was not sent.
    Send(SendError),
    /// The connection closed while the call was in flight.
    Closed,
    /// No answer within the limit.
    TimedOut,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(error) => error.fmt(f),
            Self::Closed => f.write_str("the connection closed before the answer"),
            Self::TimedOut => f.write_str("no answer in time"),
        }
    }
}

impl std::error::Error for CallError {}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// This end closed it.
    Local,
    /// The peer closed it.
    Peer,
    /// Nothing was read or written for 120 s, or a started frame stayed incomplete for 15 s.
    Idle,
    /// The peer broke the framing or the header format.
    Protocol(crate::FrameError),
    /// The peer did not read: the limit on unsent bytes was reached, or nothing of them left for
    /// 120 s.
    Backlog,
    /// The service panicked while it handled a turn of this connection.
    Panicked,
    /// The system reported an error, given as its kind.
    Io(io::ErrorKind),
}
