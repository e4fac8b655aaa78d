//! One connection to each peer, dialled once however many want it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use staticfire_transport::{Command, Connection, ConnectionId, Endpoint, Runtime, Service, Transport};

use super::ClientError;
use super::wait::{Promise, lock, promise, within};

type Dialled = Result<Connection, ClientError>;

/// The connections of a client.
pub(super) struct Peers {
    transport: Arc<dyn Transport>,
    runtime: Arc<dyn Runtime>,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    closed: bool,
    by_address: BTreeMap<SocketAddr, Slot>,
}

enum Slot {
    Open(Connection),
    Dialling(Vec<Promise<Dialled>>),
}

/// What is sent first on a new connection.
pub(super) trait Greeting: Send + Sync {
    /// The connection is up; nobody has used it yet.
    fn greet(&self, connection: &Connection);
}

impl Peers {
    pub(super) fn new(transport: Arc<dyn Transport>, runtime: Arc<dyn Runtime>) -> Self {
        Self { transport, runtime, slots: Mutex::default() }
    }

    /// The addresses of `peer`, at least one, looked up within `limit`; the one in use is the first.
    pub(super) async fn find(
        &self,
        peer: &Endpoint,
        limit: Duration,
    ) -> Result<Vec<SocketAddr>, ClientError> {
        let unknown = || ClientError::Address { found: peer.to_string() };
        let found = within(&*self.runtime, limit, peer.resolve(&*self.transport)).await;
        let mut found = found.ok_or_else(unknown)?.map_err(|_| unknown())?;
        found.sort_by_key(|address| self.open(*address).is_none());
        Ok(found)
    }

    /// The open connection to `peer`, without dialling.
    pub(super) fn open(&self, peer: SocketAddr) -> Option<Connection> {
        match lock(&self.slots).by_address.get(&peer) {
            Some(Slot::Open(connection)) if connection.is_open() => Some(connection.clone()),
            _ => None,
        }
    }

    /// A connection to `peer`; dials when there is none. A waiter that gives up does not stop the
    /// dialling for the others.
    pub(super) async fn connection(
        self: &Arc<Self>,
        peer: SocketAddr,
        service: &Arc<dyn Service>,
        greeting: Option<Arc<dyn Greeting>>,
    ) -> Dialled {
        let (give, wait) = promise();
        let first = {
            let mut slots = lock(&self.slots);
            if slots.closed {
                return Err(ClientError::Closed);
            }
            match slots.by_address.get_mut(&peer) {
                Some(Slot::Open(connection)) if connection.is_open() => return Ok(connection.clone()),
                Some(Slot::Dialling(waiting)) => {
                    waiting.push(give);
                    false
                }
                _ => {
                    slots.by_address.insert(peer, Slot::Dialling(vec![give]));
                    true
                }
            }
        };
        if first {
            self.dial(peer, Arc::clone(service), greeting);
        }
        wait.await.unwrap_or(Err(ClientError::Closed))
    }

    fn dial(
        self: &Arc<Self>,
        peer: SocketAddr,
        service: Arc<dyn Service>,
        greeting: Option<Arc<dyn Greeting>>,
    ) {
        let peers = Arc::clone(self);
        let connecting = self.transport.connect(peer, service);
        self.runtime.spawn(Box::pin(async move {
            let dialled =
                connecting.await.map_err(|error| ClientError::Unreachable { peer, kind: error.kind() });
            if let (Ok(connection), Some(greeting)) = (&dialled, &greeting) {
                greeting.greet(connection);
            }
            peers.dialled(peer, &dialled);
        }));
    }

    fn dialled(&self, peer: SocketAddr, dialled: &Dialled) {
        let (slot, closed) = {
            let mut slots = lock(&self.slots);
            let slot = slots.by_address.remove(&peer);
            if let Ok(connection) = dialled
                && !slots.closed
            {
                slots.by_address.insert(peer, Slot::Open(connection.clone()));
            }
            (slot, slots.closed)
        };
        if let Ok(connection) = dialled
            && closed
        {
            connection.close();
        }
        if let Some(Slot::Dialling(waiting)) = slot {
            waiting.into_iter().for_each(|promise| promise.keep(dialled.clone()));
        }
    }

    /// Forgets a connection that is gone.
    pub(super) fn gone(&self, peer: SocketAddr, id: ConnectionId) {
        let mut slots = lock(&self.slots);
        if matches!(slots.by_address.get(&peer), Some(Slot::Open(connection)) if connection.id() == id) {
            slots.by_address.remove(&peer);
        }
    }

    /// Closes everything; later calls fail.
    pub(super) fn close(&self) {
        let slots = {
            let mut slots = lock(&self.slots);
            slots.closed = true;
            std::mem::take(&mut slots.by_address)
        };
        for slot in slots.into_values() {
            if let Slot::Open(connection) = slot {
                connection.close();
            }
        }
    }

    /// Connects if need be, within `connecting`; calls, and gives the answer, all within `limit`.
    pub(super) async fn call(
        self: &Arc<Self>,
        peer: SocketAddr,
        service: &Arc<dyn Service>,
        greeting: Option<Arc<dyn Greeting>>,
        request: Command,
        limits: Limits,
    ) -> Result<Command, ClientError> {
        let deadline = self.runtime.now() + limits.answer;
        let connection = self.connection(peer, service, greeting);
        let connected = within(&*self.runtime, limits.connecting, connection).await;
        let connection =
            connected.unwrap_or(Err(ClientError::Unreachable { peer, kind: ErrorKind::TimedOut }))?;
        let left = deadline.since(self.runtime.now());
        connection.call(request, left).await.map_err(|error| ClientError::NoAnswer { peer, error })
    }
}

/// How long a call may take.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Until there is a connection.
    pub(super) connecting: Duration,
    /// Until there is an answer, connecting included.
    pub(super) answer: Duration,
}

impl Limits {
    /// The same limit for both.
    pub(super) const fn both(limit: Duration) -> Self {
        Self { connecting: limit, answer: limit }
    }
}
