//! The name server on a transport: one lock around the table, one timer.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use staticfire_transport::{
    CloseReason, Command, Connection, ConnectionId, Listener, Runtime, Service, Transport,
};

use super::{BrokerEntry, RouteTable, TableLimits, handlers};

/// How a name server behaves.
#[derive(Clone, Copy, Debug)]
pub struct NameServerOptions {
    /// Where it listens. Default: 127.0.0.1:9876.
    pub listen: SocketAddr,
    /// How often it looks for silent brokers. Default: 10 s.
    pub scan_interval: Duration,
    /// Are order settings part of routes? Default: no.
    pub order_messages: bool,
    /// Are order settings part of the answer to a registration? Default: yes.
    pub order_settings_to_brokers: bool,
    /// May a slave appear as master in routes while its group has none? Default: no.
    pub acting_master: bool,
    /// Bounds of the table.
    pub limits: TableLimits,
}

impl Default for NameServerOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9876)),
            scan_interval: Duration::from_secs(10),
            order_messages: false,
            order_settings_to_brokers: true,
            acting_master: false,
            limits: TableLimits::default(),
        }
    }
}

/// A running name server. Dropping it stops it and closes its connections.
#[derive(Debug)]
pub struct NameServer {
    listener: Listener,
    shared: Arc<Shared>,
}

impl NameServer {
    /// Listens, and serves until dropped. It never connects to anyone.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn start(
        transport: &dyn Transport,
        runtime: Arc<dyn Runtime>,
        options: NameServerOptions,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            runtime: Arc::clone(&runtime),
            options,
            table: RwLock::new(RouteTable::new(options.limits)),
            connections: Mutex::default(),
        });
        let listener = transport.listen(options.listen, Arc::clone(&shared) as Arc<dyn Service>)?;
        runtime.spawn(Box::pin(scan_forever(
            Arc::downgrade(&shared),
            Arc::clone(&runtime),
            options.scan_interval,
        )));
        Ok(Self { listener, shared })
    }

    /// The address it listens on, with the real port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Every registered broker, with the time since its last sign of life.
    #[must_use]
    pub fn brokers(&self) -> Vec<BrokerEntry> {
        self.shared.read().brokers(self.shared.runtime.now())
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let connections = std::mem::take(&mut *self.shared.connections());
        connections.values().for_each(Connection::close);
    }
}

/// What the listener, the timer and the handle share.
pub(super) struct Shared {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) options: NameServerOptions,
    table: RwLock<RouteTable>,
    connections: Mutex<BTreeMap<ConnectionId, Connection>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NameServer").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn read(&self) -> RwLockReadGuard<'_, RouteTable> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, RouteTable> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn connections(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scan(&self) {
        let evicted = self.write().scan(self.runtime.now());
        for eviction in evicted {
            let silent = self.connections().get(&eviction.connection).cloned();
            if let Some(connection) = silent {
                connection.close();
            }
        }
    }
}

impl Service for Shared {
    fn opened(&self, connection: &Connection) {
        self.connections().insert(connection.id(), connection.clone());
    }

    fn turn(&self, connection: &Connection, requests: &mut Vec<Command>) {
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests.drain(..) {
            if request.is_response() {
                continue;
            }
            let answer = handlers::answer(self, connection.id(), &request);
            if !request.is_one_way() {
                answers.push(answer);
            }
        }
        // A connection that is closed or does not read has nobody to tell.
        let _ = connection.send_all(&mut answers);
    }

    fn closed(&self, connection: &Connection, _reason: &CloseReason) {
        self.connections().remove(&connection.id());
        self.write().closed(connection.id());
    }
}

/// Scans every `interval`, in step with the start, until the name server is gone.
async fn scan_forever(shared: Weak<Shared>, runtime: Arc<dyn Runtime>, interval: Duration) {
    let mut next = runtime.now() + interval;
    loop {
        runtime.sleep_until(next).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.scan();
        next = (next + interval).max(runtime.now());
    }
}
