//! A cluster to test on: name servers, brokers and clients on one thread, without a port or a file,
//! in virtual time, from one seed.
//!
//! ```text
//!   Cluster::seeded(7) ── start ──> Running ── run_for, power_cut, partition, run(&plan) ──┐
//!                                      │ each node = host + disk + role                    ▼
//!   Ledger: sent, OK, unknown, refused ┴───────────────── check ─────────> nothing, or a Violation
//! ```
//!
//! * The disk keeps any subset of what was not synced, torn; syncs complete late, fail, or never.
//! * The network delays, loses, reorders between connections, resets, and is cut one way or both.
//!   Connections are streams: a connection never delivers anything twice; what arrives twice was
//!   sent twice, by whoever tried again after a reset or a lost answer.
//! * Clocks jump and drift. Only wall clocks: nobody may depend on them.
//! * What goes wrong is a [`Plan`], which is data: drawn from a seed, printed, shrunk by proptest,
//!   replayed from its line.
//!
//! Equal seeds give equal runs, in every process: [`Running::trace_hash`].
//!
//! # Properties
//!
//! What was acknowledged survives a power cut at any disk operation, and the log is a prefix of what
//! it was:
//!
//! ```
//! use std::time::Duration;
//! use staticfire::sim::{Cluster, Ledger, Node, cases};
//!
//! cases(20, |seed| {
//!     let mut cluster = Cluster::seeded(seed).start();
//!     let (broker, ledger) = (Node::master(0), Ledger::of("orders"));
//!     cluster.create_topic("orders", 4);
//!     let (client, pause) = (cluster.host(Node::Client(1)), Duration::from_millis(1));
//!     cluster.spawn(Node::Client(1), ledger.clone().keep_sending(cluster.producer(1), client, pause));
//!     cluster.run_for(Duration::from_millis(30));
//!     cluster.power_cut_at_step(broker, seed % 200);
//!     cluster.run_for(Duration::from_secs(1));
//!     cluster.restart(broker);
//!     cluster.check(&ledger).unwrap_or_else(|violation| panic!("{violation}"));
//!     assert!(ledger.counts().ok > 0, "something was acknowledged");
//! });
//! ```
//!
//! Whatever a plan of faults does, nothing is invented, nothing is stored twice, queues are a
//! function of the log, and every message that was acknowledged is delivered in the end:
//!
//! ```
//! use std::time::Duration;
//! use staticfire::client::{PushConsumerOptions, StartFrom};
//! use staticfire::sim::{Cluster, Ledger, Node, Plan, cases};
//!
//! cases(2, |seed| {
//!     let cluster = Cluster::seeded(seed).brokers(2).name_servers(2);
//!     let plan = Plan::seeded(seed, &cluster);
//!     let (mut cluster, ledger) = (cluster.start(), Ledger::of("orders"));
//!     cluster.create_topic("orders", 4);
//!     let options = PushConsumerOptions { start: StartFrom::Earliest, ..PushConsumerOptions::default() };
//!     let consumer = cluster.push_consumer(2, "readers", options, &[("orders", "*")], ledger.listener("reader"));
//!     let (client, pause) = (cluster.host(Node::Client(1)), Duration::from_millis(50));
//!     cluster.spawn(Node::Client(1), ledger.clone().keep_sending(cluster.producer(1), client, pause));
//!     cluster.run(&plan).unwrap_or_else(|violation| panic!("{violation}"));
//!     cluster.kill(Node::Client(1));
//!     cluster.run_for(Duration::from_secs(120));
//!     cluster.check(&ledger).unwrap_or_else(|violation| panic!("{violation}"));
//!     ledger.check_delivered(&["reader"]).unwrap_or_else(|violation| panic!("{plan}: {violation}"));
//!     drop(consumer);
//! });
//! ```
//!
//! A queue keeps the order in which messages were acknowledged, across kills:
//!
//! ```
//! use staticfire::sim::{Cluster, Ledger, Node, cases};
//!
//! cases(3, |seed| {
//!     let (mut cluster, ledger) = (Cluster::seeded(seed).start(), Ledger::of("orders"));
//!     cluster.create_topic("orders", 1);
//!     let producer = cluster.producer(1);
//!     for message in 0..30 {
//!         cluster.wait(ledger.send(&producer)).expect("the broker serves");
//!         if message % 10 == 9 {
//!             cluster.kill(Node::master(0));
//!             cluster.restart(Node::master(0));
//!         }
//!     }
//!     cluster.check(&ledger).unwrap_or_else(|violation| panic!("{violation}"));
//!     assert_eq!(cluster.stored("orders").len(), 30);
//! });
//! ```
//!
//! What a group that elects acknowledged survives the loss of its leaders:
//!
//! ```
//! use std::time::Duration;
//! use staticfire::sim::{Cluster, Ledger, Node, cases};
//!
//! cases(3, |seed| {
//!     let mut cluster = Cluster::seeded(seed).members(3).electing().start();
//!     let ledger = Ledger::of("orders");
//!     cluster.create_topic("orders", 2);
//!     let (client, pause) = (cluster.host(Node::Client(1)), Duration::from_millis(5));
//!     cluster.spawn(Node::Client(1), ledger.clone().keep_sending(cluster.producer(1), client, pause));
//!     for _ in 0..2 {
//!         cluster.run_for(Duration::from_secs(1));
//!         let (old, before) = (cluster.leader(0), ledger.counts().ok);
//!         cluster.power_cut(old);
//!         cluster.run_for(Duration::from_secs(5));
//!         assert_ne!(cluster.leader(0), old);
//!         assert!(ledger.counts().ok > before, "the producer found the new one");
//!         cluster.restart(old);
//!     }
//!     cluster.check(&ledger).unwrap_or_else(|violation| panic!("{violation}"));
//! });
//! ```
//!
//! A slave that copies behind the master's back lacks the end, and nothing else:
//!
//! ```
//! use std::time::Duration;
//! use staticfire::replication::Mode;
//! use staticfire::sim::{Cluster, Ledger, Node, cases};
//!
//! cases(3, |seed| {
//!     let (master, slave) = (Node::master(0), Node::Broker { group: 0, id: 1 });
//!     let mut cluster = Cluster::seeded(seed).members(2).copying(Mode::Flushed).start();
//!     let ledger = Ledger::of("orders");
//!     cluster.create_topic("orders", 1);
//!     let (client, pause) = (cluster.host(Node::Client(1)), Duration::from_millis(1));
//!     cluster.spawn(Node::Client(1), ledger.clone().keep_sending(cluster.producer(1), client, pause));
//!     cluster.run_for(Duration::from_millis(500 + seed));
//!     cluster.partition(master, slave);
//!     cluster.run_for(Duration::from_millis(100));
//!     let (all, copied) = (cluster.stored_at(master, "orders"), cluster.stored_at(slave, "orders"));
//!     assert!(!copied.is_empty() && copied.len() < all.len());
//!     assert_eq!(copied, all[..copied.len()]);
//! });
//! ```
//!
//! Equal seeds give equal runs:
//!
//! ```
//! use staticfire::sim::{Cluster, Plan};
//!
//! let run = |seed| {
//!     let cluster = Cluster::seeded(seed).brokers(2);
//!     let plan = Plan::seeded(seed, &cluster);
//!     let mut running = cluster.start();
//!     running.run(&plan).unwrap_or_else(|violation| panic!("{violation}"));
//!     running.trace_hash()
//! };
//! assert_eq!(run(5), run(5));
//! assert_ne!(run(5), run(6));
//! ```
//!
//! # A broker of your own
//!
//! Whatever is written against [`Transport`](crate::transport::Transport),
//! [`Service`](crate::transport::Service) and [`Runtime`](crate::transport::Runtime) runs here. An
//! async function of a [`Machine`] is a [`Role`]; what it returns lives as long as its node:
//!
//! ```
//! use std::sync::Arc;
//! use staticfire::sim::{Cluster, Machine, Node};
//! use staticfire::storage::{Durability, Message, QueueId, Store, TopicName};
//! use staticfire::transport::{Command, Connection, Listener, Service, Transport};
//!
//! /// Appends what it is sent, and answers once it is flushed.
//! struct Log(Store);
//! impl Service for Log {
//!     fn turn(&self, connection: &Connection, requests: &mut Vec<Command>) {
//!         for request in requests.drain(..) {
//!             let topic = TopicName::new("log").expect("a name");
//!             let receipt = self.0.append(&Message::new(topic, QueueId(0), request.body.to_bytes()));
//!             let (answer, connection) = (request.answer(0), connection.clone());
//!             let position = receipt.expect("the store takes it").position();
//!             let flushed = Box::new(move |_| drop(connection.send(answer)));
//!             self.0.when(Durability::Flushed, position, flushed);
//!         }
//!     }
//! }
//! async fn start(machine: Machine) -> Result<(Store, Listener), Box<dyn std::error::Error + Send + Sync>> {
//!     let store = Store::open(machine.store_options())?;
//!     let listener = machine.host().listen(machine.address(), Arc::new(Log(store.clone())))?;
//!     Ok((store, listener))
//! }
//!
//! let mut cluster = Cluster::seeded(1).own_brokers(start).start();
//! let broker = Node::master(0);
//! let peer = cluster.peer(1, broker.address()).expect("it listens");
//! assert_eq!(peer.ask(Command::request(1).with_body("kept")).code, 0);
//! cluster.power_cut(broker);
//! cluster.restart(broker);
//! let (store, _) = cluster.process::<(Store, Listener)>(broker).expect("it serves");
//! assert_eq!(store.queue("log", QueueId(0)).expect("it is there").max().0, 1);
//! ```

mod cases;
mod clients;
mod cluster;
mod disks;
mod fault;
mod ledger;
mod machine;
mod node;
mod perform;
mod plan;
mod prefix;
mod progress;
pub mod queues;
pub mod reached;
pub mod requests;
mod running;
mod settling;
mod timeline;
mod violation;
mod watch;

pub use cases::cases;
pub use clients::Peer;
pub use cluster::Cluster;
pub use fault::{Fault, FaultKind, PlanError};
pub use ledger::{Counts, Found, Ledger, Outcome, Place, Promise};
pub use machine::{Failure, Machine, Process, Role};
pub use node::{Node, NotANode};
pub use plan::Plan;
pub use progress::Progress;
pub use reached::Phase;
pub use running::Running;
pub use violation::Violation;
