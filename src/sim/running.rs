//! A cluster that runs: time, lives and deaths.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use staticfire_storage::Store;
use staticfire_storage::disk::SimulatedDisk;
use staticfire_transport::memory::{Host, Network};
use staticfire_transport::{Monotonic, Runtime};

use super::disks::Disks;
use super::machine::Process;
use super::perform::Weather;
use super::prefix::Shadow;
use super::violation::Context;
use super::watch::Watch;
use super::{Cluster, Machine, Node, Phase, Plan, Role, Violation, prefix, queues, reached};
use crate::broker::Broker;
use crate::name_server::NameServer;

/// The longest that a node may take to start, in virtual time.
const START: Duration = Duration::from_secs(60);
/// How often it is looked at whether something is there that was waited for.
const LOOK: Duration = Duration::from_millis(1);

/// A running cluster, on this thread. Nothing happens but in the methods that run it.
pub struct Running {
    pub(super) cluster: Cluster,
    pub(super) network: Network,
    pub(super) disks: Arc<Disks>,
    pub(super) weather: Weather,
    lives: BTreeMap<Node, Life>,
    /// What the logs held when their nodes died last.
    shadows: BTreeMap<Node, Shadow>,
    /// Nodes that lost power at some time.
    pub(super) blacked_out: BTreeSet<Node>,
    violations: Vec<Violation>,
    watch: Arc<Watch>,
    /// A disk was lost with everything on it.
    pub(super) lost_disk: bool,
    pub(super) plan: Option<Plan>,
    /// What was done to the cluster, and when.
    pub(super) events: Vec<(Duration, String)>,
}

/// One life of a node with a role.
struct Life {
    machine: Machine,
    started: Arc<OnceLock<Result<Process, super::Failure>>>,
    role: Arc<dyn Role>,
    examined: bool,
}

impl Life {
    fn store(&self) -> Option<&Store> {
        self.role.store(self.process()?)
    }

    /// It is a node of a broker group.
    fn copies(&self) -> bool {
        let broker = self.process().and_then(|process| process.downcast_ref::<Broker>());
        broker.is_some_and(|broker| broker.role().is_some())
    }

    fn group_phase(&self) -> Phase {
        let broker = self.process().and_then(|process| process.downcast_ref::<Broker>());
        match broker.and_then(Broker::role) {
            Some(staticfire_replication::Role::Leader { serves: true, .. }) => Phase::Leading,
            Some(staticfire_replication::Role::Follower { leader: Some(_), .. }) => Phase::Following,
            _ => Phase::Electing,
        }
    }

    fn process(&self) -> Option<&Process> {
        self.started.get()?.as_ref().ok()
    }
}

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// Its process dies; what was written stays, durable or not.
    Kill,
    /// Of what was not synced, anything may be gone.
    PowerCut,
}

impl Running {
    pub(super) fn start(cluster: Cluster) -> Self {
        let network = Network::seeded(cluster.seed);
        network.set_links(cluster.link.clone());
        let disks = Arc::new(Disks::default());
        network.add_source(Arc::clone(&disks) as Arc<_>);
        let watch = Arc::new(Watch::default());
        network.add_source(Arc::clone(&watch) as Arc<_>);
        let mut running = Self {
            network,
            disks,
            weather: Weather::default(),
            lives: BTreeMap::new(),
            shadows: BTreeMap::new(),
            blacked_out: BTreeSet::new(),
            violations: Vec::new(),
            watch,
            lost_disk: false,
            plan: None,
            events: Vec::new(),
            cluster,
        };
        // Brokers look for their name servers once when they start.
        let nodes = running.cluster.nodes();
        let (servers, brokers): (Vec<_>, Vec<_>) =
            nodes.into_iter().partition(|node| matches!(node, Node::NameServer(_)));
        for nodes in [servers, brokers] {
            nodes.iter().for_each(|node| running.begin(*node));
            nodes.iter().for_each(|node| running.await_start(*node));
        }
        if running.cluster.copying.is_some() {
            running.await_masters();
        }
        running
    }

    /// Runs until each group has a master, and clients find it.
    fn await_masters(&mut self) {
        for master in self.masters() {
            let address = master.address().to_string();
            let finds = |server: &NameServer| {
                server.brokers().iter().any(|known| known.broker_id == 0 && known.address == address)
            };
            let found = |running: &Self| {
                (0..running.cluster.name_servers).all(|number| running.name_server(number).is_some_and(finds))
            };
            self.run_until(START, found);
        }
    }

    /// What it was made of.
    #[must_use]
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The network, with the log of who said what to whom.
    #[must_use]
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// Virtual time since the start.
    #[must_use]
    pub fn now(&self) -> Monotonic {
        self.network.now()
    }

    /// Lets everything happen that happens within `time`.
    pub fn run_for(&self, time: Duration) {
        self.network.run_for(time);
    }

    /// Runs until `future` is ready.
    ///
    /// # Panics
    /// It is not within ten virtual minutes.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let ready = self.network.block_on(future, Duration::from_secs(600));
        ready.unwrap_or_else(|| panic!("seed {}: nothing came of it in ten minutes", self.cluster.seed))
    }

    /// Runs `future` as a task of a node, until it is done or the node dies.
    pub fn spawn(&self, node: Node, future: impl Future<Output = ()> + Send + 'static) {
        self.host(node).spawn(Box::pin(future));
    }

    /// The host of a node: its present life, or the next one if it is down.
    #[must_use]
    pub fn host(&self, node: Node) -> Host {
        self.network.host(node.ip())
    }

    /// The disk of a node.
    ///
    /// # Panics
    /// The node has none: it is a client's or not of this cluster.
    #[must_use]
    pub fn disk(&self, node: Node) -> SimulatedDisk {
        self.disks.of(node).unwrap_or_else(|| panic!("{node} has no disk"))
    }

    /// What the role of a node returned when it started, if it is a `T` and the node serves.
    #[must_use]
    pub fn process<T: 'static>(&self, node: Node) -> Option<&T> {
        self.lives.get(&node)?.process()?.downcast_ref()
    }

    /// The broker on a node, while it serves.
    #[must_use]
    pub fn broker(&self, node: Node) -> Option<&Broker> {
        self.process(node)
    }

    /// Who takes the messages of a group, after waiting for it: whom its members elected; the member
    /// with id 0 where they do not.
    ///
    /// # Panics
    /// They elect nobody within a virtual minute.
    #[must_use]
    pub fn leader(&self, group: u8) -> Node {
        let end = self.now() + START;
        let members = || (0..self.cluster.members).map(|id| Node::Broker { group, id });
        let role = |node: Node| self.broker(node).and_then(Broker::role);
        while self.cluster.copying.is_some() || members().any(|node| role(node).is_some()) {
            let leads = |node: &Node| role(*node).is_some_and(|role| role.serves() && role.accepts());
            if let Some(leader) = members().find(leads) {
                return leader;
            }
            let status = || members().map(|node| (node, self.broker(node).map(Broker::group_status)));
            assert!(
                self.now() < end,
                "seed {}: nobody leads: {:?}",
                self.cluster.seed,
                status().collect::<Vec<_>>()
            );
            self.run_for(LOOK);
        }
        Node::master(group)
    }

    /// The store of the broker on a node, while it serves; see [`Role::store`].
    #[must_use]
    pub fn store(&self, node: Node) -> Option<&Store> {
        self.lives.get(&node)?.store()
    }

    /// A name server, while it serves.
    #[must_use]
    pub fn name_server(&self, number: u8) -> Option<&NameServer> {
        self.process(Node::NameServer(number))
    }

    /// The addresses of all name servers.
    #[must_use]
    pub fn name_servers(&self) -> Vec<SocketAddr> {
        (0..self.cluster.name_servers).map(|number| Node::NameServer(number).address()).collect()
    }

    /// The addresses of all members of a group.
    #[must_use]
    pub fn brokers_of(&self, group: u8) -> Vec<SocketAddr> {
        (0..self.cluster.members).map(|id| Node::Broker { group, id }.address()).collect()
    }

    /// True while a node serves.
    #[must_use]
    pub fn is_up(&self, node: Node) -> bool {
        self.lives.get(&node).is_some_and(|life| life.process().is_some() && life.machine.host.is_up())
    }

    /// What a node is about.
    #[must_use]
    pub fn phase(&self, node: Node) -> Phase {
        match self.lives.get(&node) {
            None => Phase::Down,
            Some(life) if life.started.get().is_none() => Phase::Starting,
            Some(life) if life.copies() => life.group_phase(),
            Some(life) if !life.machine.disk.pending_syncs().is_empty() => Phase::Syncing,
            Some(_) => Phase::Serving,
        }
    }

    /// The process of a node dies: its peers see their connections end, its disk keeps what was
    /// written. Of a client, everything that runs there is gone.
    pub fn kill(&mut self, node: Node) {
        self.end(node, Death::Kill);
    }

    /// A node loses power: its peers hear nothing, and of what was not synced anything may be gone.
    pub fn power_cut(&mut self, node: Node) {
        self.end(node, Death::PowerCut);
    }

    /// As [`Self::power_cut`], in the middle of the node's disk operation number `steps` from now.
    pub fn power_cut_at_step(&mut self, node: Node, steps: u64) {
        let disk = self.disk(node);
        disk.crash_at_step(disk.steps() + steps);
    }

    /// Starts a node that is down, on what its disk holds, and waits until it serves. A node that is
    /// up is killed first.
    ///
    /// # Panics
    /// It does not start; [`Self::try_restart`] tells why instead.
    pub fn restart(&mut self, node: Node) {
        if let Err(error) = self.try_restart(node) {
            panic!("seed {}: {node} does not start: {error}", self.cluster.seed);
        }
    }

    /// As [`Self::restart`].
    ///
    /// # Errors
    /// What the role said, or that it took longer than a virtual minute.
    pub fn try_restart(&mut self, node: Node) -> Result<(), String> {
        self.kill(node);
        self.begin(node);
        self.run_until(START, |running| running.lives.get(&node).is_none_or(|it| it.started.get().is_some()));
        match self.lives.get(&node).and_then(|life| life.started.get()) {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("it takes too long, or died".to_owned()),
        }
    }

    /// Gives a node that is down another disk: an empty one, or a copy of another node's.
    ///
    /// # Panics
    /// The node is up.
    pub fn replace_disk(&mut self, node: Node, disk: SimulatedDisk) {
        assert!(!self.lives.contains_key(&node), "{node} uses its disk; end it first");
        self.note(format!("{node} gets another disk"));
        self.shadows.remove(&node);
        self.watch.forget(node);
        self.disks.put(node, disk);
    }

    /// Ends a node properly.
    ///
    /// # Errors
    /// What the role said, or that the node does not serve.
    pub fn stop(&mut self, node: Node) -> Result<(), String> {
        self.stop_within(node, START)
    }

    pub(super) fn stop_within(&mut self, node: Node, limit: Duration) -> Result<(), String> {
        self.attend();
        let role = self.cluster.role(node).ok_or("there is nothing to stop on a client")?;
        self.watch.look();
        let life = self.lives.remove(&node).ok_or("it is down")?;
        self.watch.look_away(node);
        let process = Arc::into_inner(life.started).and_then(OnceLock::into_inner);
        let process = process.ok_or("it is starting")?.map_err(|error| error.to_string())?;
        let stopped = self.network.block_on(role.stop(process), limit);
        self.bury(node, &life.machine, Death::Kill);
        stopped.ok_or("it takes too long")?.map_err(|error| error.to_string())
    }

    /// Starts a node and does not wait.
    pub(super) fn begin(&mut self, node: Node) {
        let Some(role) = self.cluster.role(node) else { return };
        let host = self.network.host(node.ip());
        let disk = self.disks.of(node);
        let disk = disk.unwrap_or_else(|| SimulatedDisk::new(self.cluster.seed ^ node.number() << 40));
        disk.set_faults(self.disk_faults(node));
        let machine = Machine { node, host, disk, name_servers: self.name_servers().into() };
        self.disks.mount(&machine);
        let started = Arc::new(OnceLock::new());
        let (slot, starting) = (Arc::clone(&started), role.start(machine.clone()));
        machine.host.spawn(Box::pin(async move {
            let started = starting.await;
            // Nobody else fills it.
            let _ = slot.set(started);
        }));
        self.watch.follow(node, &started, &role);
        self.lives.insert(node, Life { machine, started, role, examined: false });
    }

    fn await_start(&mut self, node: Node) {
        self.run_until(START, |running| running.lives[&node].started.get().is_some());
        match self.lives[&node].started.get() {
            Some(Ok(_)) => {}
            Some(Err(error)) => panic!("seed {}: {node} does not start: {error}", self.cluster.seed),
            None => panic!("seed {}: {node} does not start in time", self.cluster.seed),
        }
    }

    /// Runs until `done`, at most for `limit`; true if it came to that. It looks every millisecond,
    /// and less often the longer it takes.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let (begun, end) = (self.now(), self.now() + limit);
        loop {
            if done(self) {
                return true;
            }
            if self.now() >= end {
                return false;
            }
            let look = LOOK.max(self.now().since(begun) / 32);
            self.run_for(look.min(end.since(self.now())));
            self.attend();
        }
    }

    pub(super) fn end(&mut self, node: Node, how: Death) {
        self.attend();
        self.end_now(node, how);
    }

    fn end_now(&mut self, node: Node, how: Death) {
        self.note(format!("{how:?} {node}"));
        self.watch.look();
        if let Some(life) = self.lives.remove(&node) {
            self.bury(node, &life.machine, how);
            return;
        }
        if matches!(node, Node::Client(_)) {
            let host = self.host(node);
            if how == Death::Kill { host.kill() } else { host.power_off() }
        }
    }

    /// Takes the machine of an ended life apart, and gives its disk to the next one.
    fn bury(&mut self, node: Node, machine: &Machine, how: Death) {
        let disk = &machine.disk;
        self.network.fold(&disk.trace().to_le_bytes());
        self.shadows.insert(node, Shadow::of(disk));
        let next = match how {
            Death::Kill => disk.kill(),
            Death::PowerCut => disk.crash(),
        };
        match how {
            Death::Kill => machine.host.kill(),
            Death::PowerCut => machine.host.power_off(),
        }
        if how == Death::PowerCut {
            self.blacked_out.insert(node);
        }
        self.disks.put(node, next);
    }

    /// Buries nodes whose disk died under them, and looks at those that recovered.
    pub(super) fn attend(&mut self) {
        let dead = self.lives.iter().filter(|(_, life)| life.machine.disk.is_gone());
        let dead: Vec<Node> = dead.map(|(node, _)| *node).collect();
        for node in dead {
            self.reach("the power failed", node);
            self.end_now(node, Death::PowerCut);
        }
        self.violations.extend(self.watch.take_violations());
        for (node, life) in &mut self.lives {
            if life.examined || life.process().is_none() {
                continue;
            }
            life.examined = true;
            let (Some(store), Some(shadow)) = (life.store(), self.shadows.get(node)) else { continue };
            let recovered = prefix::check(store, &life.machine.disk, shadow, life.copies());
            let found = recovered.and_then(|()| queues::check(store)).err();
            self.violations.extend(found.map(|found| found.on(*node)));
        }
    }

    /// The first violation that was seen so far.
    ///
    /// # Errors
    /// It.
    pub fn violation(&self) -> Result<(), Violation> {
        match self.violations.first().cloned().or_else(|| self.watch.first_violation()) {
            Some(violation) => Err(violation.within(self.context())),
            None => Ok(()),
        }
    }

    /// A hash of everything that happened on the network and the disks: equal for equal seeds, in
    /// every process.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        let fold = |hash: u64, trace: u64| (hash.rotate_left(7) ^ trace).wrapping_mul(0x9fb2_1c65_1e98_df25);
        self.disks.traces().into_iter().fold(self.network.trace(), fold)
    }

    /// True for a node that is down, or whose role failed to start.
    pub(super) fn is_dead(&self, node: Node) -> bool {
        self.lives.get(&node).is_none_or(|life| matches!(life.started.get(), Some(Err(_))))
    }

    /// Why a node does not serve.
    pub(super) fn complaint(&self, node: Node) -> String {
        match self.lives.get(&node).map(|life| life.started.get()) {
            None => "it is down".to_owned(),
            Some(None) => "it is still starting".to_owned(),
            Some(Some(Err(error))) => error.to_string(),
            Some(Some(Ok(_))) => "its host is down".to_owned(),
        }
    }

    /// Remembers what was done to the cluster, for the report of a violation.
    pub(super) fn note(&mut self, event: String) {
        let at = self.now().since_start();
        self.network.fold(event.as_bytes());
        self.events.push((at, event));
    }

    /// Says with a violation which seed and plan show it again.
    #[must_use]
    pub fn in_context(&self, violation: Violation) -> Violation {
        violation.within(self.context())
    }

    pub(super) fn context(&self) -> Context {
        let last = self.events.iter().rev().take(20).rev();
        Context {
            seed: self.cluster.seed,
            at: self.now().since_start(),
            trace: self.trace_hash(),
            plan: self.plan.clone(),
            events: last.map(|(at, event)| format!("{at:?} {event}")).collect(),
        }
    }

    pub(super) fn reach(&self, kind: &'static str, node: Node) {
        reached::note(kind, self.phase(node).name());
    }
}

/// A run that ends in a panic leaves a page that shows it.
impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.write_timeline();
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Running({:?} at {:?})", self.cluster, self.now().since_start())
    }
}
