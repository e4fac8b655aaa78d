//! A node: a host, a disk, and the role that is started on them.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use staticfire_replication::{Failover, Mode, NodeId};
use staticfire_storage::disk::SimulatedDisk;
use staticfire_storage::{Clock, Durability, Store, StoreOptions};
use staticfire_transport::memory::Host;
use staticfire_transport::{BoxFuture, Runtime, Transport};

use super::Node;
use crate::broker::{Broker, BrokerOptions, GroupOptions};
use crate::name_server::{NameServer, NameServerOptions};

/// One life of a node: what its role gets to work with. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(super) node: Node,
    pub(super) host: Host,
    pub(super) disk: SimulatedDisk,
    pub(super) name_servers: Arc<[SocketAddr]>,
}

/// What runs on a node: started when the cluster starts and, on what the disk still holds, after
/// each crash. Async functions of a [`Machine`] are roles; whatever they return is kept until the
/// node dies, and dropped then.
pub trait Role: Send + Sync {
    /// Starts it. Complete when it serves.
    fn start(&self, machine: Machine) -> BoxFuture<'static, Result<Process, Failure>>;

    /// Ends it properly, with everything that it has to do at its end.
    fn stop(&self, process: Process) -> BoxFuture<'static, Result<(), Failure>> {
        drop(process);
        Box::pin(async { Ok(()) })
    }

    /// The store in what it returned, for the oracles. Default: the process itself, if it is one.
    fn store<'a>(&self, process: &'a Process) -> Option<&'a Store> {
        process.downcast_ref()
    }
}

/// Whatever a role returned when it started.
pub type Process = Box<dyn Any + Send + Sync>;

/// Why a role did not start or stop.
pub type Failure = Box<dyn Error + Send + Sync>;

impl<F, R, T, E> Role for F
where
    F: Fn(Machine) -> R + Send + Sync,
    R: Future<Output = Result<T, E>> + Send + 'static,
    T: Any + Send + Sync,
    E: Into<Failure>,
{
    fn start(&self, machine: Machine) -> BoxFuture<'static, Result<Process, Failure>> {
        let starting = self(machine);
        Box::pin(
            async move { starting.await.map(|process| Box::new(process) as Process).map_err(Into::into) },
        )
    }
}

impl Machine {
    /// Its name.
    #[must_use]
    pub const fn node(&self) -> Node {
        self.node
    }

    /// This life of the host. Nothing spawned on it outlives it.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The host as what connects and listens.
    #[must_use]
    pub fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(self.host.clone())
    }

    /// The host as what runs tasks and tells the time.
    #[must_use]
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(self.host.clone())
    }

    /// The disk, as this life found it.
    #[must_use]
    pub const fn disk(&self) -> &SimulatedDisk {
        &self.disk
    }

    /// The wall clock, which may jump and drift.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(HostClock(self.host.clone()))
    }

    /// A store on the disk, with small segments of 8 MiB.
    #[must_use]
    pub fn store_options(&self) -> StoreOptions {
        let mut options = StoreOptions::on(self.disk.directory(), self.clock());
        (options.segment_bytes, options.queue_file_entries) = (8 << 20, 1000);
        options
    }

    /// Where it should listen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.node.address()
    }

    /// The addresses of all name servers.
    #[must_use]
    pub fn name_servers(&self) -> &[SocketAddr] {
        &self.name_servers
    }
}

/// The host's wall clock, for its store.
struct HostClock(Host);

impl Clock for HostClock {
    fn wall_ms(&self) -> i64 {
        self.0.wall_ms()
    }
}

impl fmt::Debug for HostClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "clock of {:?}", self.0)
    }
}

/// Changes the settings of brokers before they start.
pub(super) type Settings<T> = Arc<dyn Fn(Node, &mut T) + Send + Sync>;

/// How the members of a group copy from each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copying {
    /// They elect who leads; otherwise it is member 0.
    pub(super) raft: bool,
    pub(super) mode: Mode,
}

impl Copying {
    /// What member `id` of a group of so many is told.
    fn options(self, group: u8, id: u8, members: u8) -> GroupOptions {
        let number = |id: u8| NodeId(u32::from(id) + 1);
        let peers = (0..members).map(|id| (number(id), (Node::Broker { group, id }.ip(), GROUP_PORT).into()));
        let failover = match (self.raft, id) {
            (true, _) => Failover::Raft,
            (false, 0) => Failover::Master { generation: 1 },
            (false, _) => Failover::Slave,
        };
        GroupOptions { mode: self.mode, ..GroupOptions::new(number(id), peers.collect(), failover) }
    }
}

/// Where the members of a group listen for each other.
const GROUP_PORT: u16 = 10912;

/// Our broker.
#[derive(Clone)]
pub(super) struct BrokerRole {
    pub(super) durability: Durability,
    pub(super) copying: Option<Copying>,
    pub(super) members: u8,
    pub(super) options: Settings<BrokerOptions>,
    pub(super) store: Settings<StoreOptions>,
}

impl Role for BrokerRole {
    fn start(&self, machine: Machine) -> BoxFuture<'static, Result<Process, Failure>> {
        let Node::Broker { group, id } = machine.node else {
            return Box::pin(async { Err("brokers run on broker nodes".into()) });
        };
        let mut options = BrokerOptions {
            name: format!("broker-{group}"),
            id: i64::from(id),
            listen: machine.address(),
            name_servers: machine.name_servers.iter().map(|server| (*server).into()).collect(),
            replication: self.copying.map(|copying| copying.options(group, id, self.members)),
            ..BrokerOptions::default()
        };
        (self.options)(machine.node, &mut options);
        let mut store = machine.store_options();
        store.durability = self.durability;
        (self.store)(machine.node, &mut store);
        Box::pin(async move {
            let broker = Broker::start(machine.transport(), machine.runtime(), options, store).await?;
            Ok(Box::new(broker) as Process)
        })
    }

    fn stop(&self, process: Process) -> BoxFuture<'static, Result<(), Failure>> {
        Box::pin(async {
            match process.downcast::<Broker>() {
                Ok(broker) => Ok(broker.stop().await?),
                Err(_) => Err("this is no broker".into()),
            }
        })
    }

    fn store<'a>(&self, process: &'a Process) -> Option<&'a Store> {
        process.downcast_ref().map(Broker::store)
    }
}

/// Our name server.
pub(super) struct NameServerRole {
    pub(super) options: Settings<NameServerOptions>,
}

impl Role for NameServerRole {
    fn start(&self, machine: Machine) -> BoxFuture<'static, Result<Process, Failure>> {
        let mut options = NameServerOptions { listen: machine.address(), ..NameServerOptions::default() };
        (self.options)(machine.node, &mut options);
        let started = NameServer::start(&machine.host, machine.runtime(), options);
        Box::pin(async { Ok(Box::new(started?) as Process) })
    }
}
