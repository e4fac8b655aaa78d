//! What a cluster is made of.

use std::fmt;
use std::sync::Arc;

use staticfire_replication::Mode;
use staticfire_storage::disk::DiskFaults;
use staticfire_storage::{Durability, StoreOptions};
use staticfire_transport::memory::Link;

use super::machine::{BrokerRole, Copying, NameServerRole, Settings};
use super::{Node, Role, Running};
use crate::broker::BrokerOptions;
use crate::name_server::NameServerOptions;

/// A cluster that is not started yet: one name server and one broker group of one broker, unless
/// told otherwise.
///
/// ```
/// use staticfire::sim::{Cluster, Node};
///
/// let cluster = Cluster::seeded(42).brokers(3).name_servers(2).start();
/// assert_eq!(cluster.name_server(1).expect("it runs").brokers().len(), 3);
/// assert!(cluster.broker(Node::master(2)).is_some());
/// ```
#[derive(Clone)]
pub struct Cluster {
    pub(super) seed: u64,
    pub(super) name_servers: u8,
    pub(super) groups: u8,
    pub(super) members: u8,
    pub(super) durability: Durability,
    pub(super) disk_faults: DiskFaults,
    pub(super) link: Link,
    pub(super) copying: Option<Copying>,
    broker_options: Settings<BrokerOptions>,
    store_options: Settings<StoreOptions>,
    name_server_options: Settings<NameServerOptions>,
    own_broker: Option<Arc<dyn Role>>,
}

impl Cluster {
    /// Everything that may differ between two runs is drawn from `seed`.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self {
            seed,
            name_servers: 1,
            groups: 1,
            members: 1,
            durability: Durability::Flushed,
            disk_faults: DiskFaults::default(),
            link: Link::default(),
            copying: None,
            broker_options: Arc::new(|_, _| {}),
            store_options: Arc::new(|_, _| {}),
            name_server_options: Arc::new(|_, _| {}),
            own_broker: None,
        }
    }

    /// So many brokers, each a group of its own.
    #[must_use]
    pub fn brokers(self, count: u8) -> Self {
        self.groups(count).members(1)
    }

    /// So many broker groups.
    #[must_use]
    pub fn groups(mut self, count: u8) -> Self {
        self.groups = count;
        self
    }

    /// So many brokers in each group: a master with id 0, and slaves, which copy nothing unless told
    /// so by [`Self::electing`] or [`Self::copying`].
    #[must_use]
    pub fn members(mut self, count: u8) -> Self {
        self.members = count;
        self
    }

    /// The members of a group elect who leads, and OK means flushed by a majority.
    #[must_use]
    pub fn electing(mut self) -> Self {
        self.copying = Some(Copying { raft: true, mode: Mode::Quorum });
        self
    }

    /// Slaves copy from the master, which is member 0 and which nobody replaces; `mode` is what OK
    /// means.
    #[must_use]
    pub fn copying(mut self, mode: Mode) -> Self {
        self.copying = Some(Copying { raft: false, mode });
        self
    }

    /// So many name servers.
    #[must_use]
    pub fn name_servers(mut self, count: u8) -> Self {
        self.name_servers = count;
        self
    }

    /// What OK means at the brokers. Default: flushed.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// What disks do when no fault of a plan is on. Default: write back early, write short.
    #[must_use]
    pub fn disks(mut self, faults: DiskFaults) -> Self {
        self.disk_faults = faults;
        self
    }

    /// How bytes travel when no fault of a plan is on. Default: 100 to 500 µs.
    #[must_use]
    pub fn links(mut self, link: Link) -> Self {
        self.link = link;
        self
    }

    /// Changes the settings of the brokers.
    #[must_use]
    pub fn broker_options(
        mut self,
        change: impl Fn(Node, &mut BrokerOptions) + Send + Sync + 'static,
    ) -> Self {
        self.broker_options = Arc::new(change);
        self
    }

    /// Changes how the brokers open their stores.
    #[must_use]
    pub fn store_options(mut self, change: impl Fn(Node, &mut StoreOptions) + Send + Sync + 'static) -> Self {
        self.store_options = Arc::new(change);
        self
    }

    /// Changes the settings of the name servers.
    #[must_use]
    pub fn name_server_options(
        mut self,
        change: impl Fn(Node, &mut NameServerOptions) + Send + Sync + 'static,
    ) -> Self {
        self.name_server_options = Arc::new(change);
        self
    }

    /// Runs this instead of our broker on all broker nodes.
    #[must_use]
    pub fn own_brokers(mut self, role: impl Role + 'static) -> Self {
        self.own_broker = Some(Arc::new(role));
        self
    }

    /// Starts all nodes and waits until they serve.
    ///
    /// # Panics
    /// A node does not start.
    #[must_use]
    pub fn start(self) -> Running {
        Running::start(self)
    }

    /// The nodes with a role, name servers first.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        let brokers = (0..self.groups).flat_map(|group| (0..self.members).map(move |id| (group, id)));
        let brokers = brokers.map(|(group, id)| Node::Broker { group, id });
        (0..self.name_servers).map(Node::NameServer).chain(brokers).collect()
    }

    /// What runs on a node, if anything is started there.
    pub(super) fn role(&self, node: Node) -> Option<Arc<dyn Role>> {
        match node {
            Node::NameServer(_) => {
                Some(Arc::new(NameServerRole { options: Arc::clone(&self.name_server_options) }))
            }
            Node::Broker { .. } => Some(self.own_broker.clone().unwrap_or_else(|| {
                Arc::new(BrokerRole {
                    durability: self.durability,
                    copying: self.copying,
                    members: self.members,
                    options: Arc::clone(&self.broker_options),
                    store: Arc::clone(&self.store_options),
                })
            })),
            Node::Client(_) => None,
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, name_servers, groups, members, durability, .. } = self;
        write!(
            f,
            "Cluster(seed {seed}, {name_servers} name servers, {groups} groups of {members}, {durability:?})"
        )
    }
}
