//! The three servers: start, say so in one line, wait for a signal, stop cleanly.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use staticfire::broker::{Broker, BrokerOptions, GroupOptions, NodeView};
use staticfire::name_server::{NameServer, NameServerOptions};
use staticfire::replication::{Failover, NodeId, Role};
use staticfire::storage::Store;
use staticfire::transport::tcp::{Tcp, TcpOptions};
use staticfire::transport::{Command, Connection, Runtime, Service, Transport};

use super::arguments::{BrokerArguments, NameServerArguments, ServerArguments, StandaloneArguments};
use super::settings::{BrokerSettings, Exposure, File, Mode, name_server_options};
use super::signals::EndRequests;
use super::{Failure, name_servers};

/// Fewer open files than this are too few for a server.
const FILES_MIN: u64 = 256;
/// How often a broker is asked whether it is well, and what it is in its group.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long a group that starts may take to elect.
const ELECTION: Duration = Duration::from_secs(10);
/// From the ports of one node of a group in one process to those of the next.
const PORTS_APART: u16 = 10;

/// What the start-up line says.
struct Serving<'a> {
    command: &'static str,
    name_server: Option<SocketAddr>,
    broker: Option<ServingBroker<'a>>,
}

struct ServingBroker<'a> {
    options: &'a BrokerOptions,
    address: SocketAddr,
    mode: Mode,
    data: PathBuf,
    /// What recovery found, a line each.
    recovery: Vec<String>,
}

pub fn standalone(arguments: StandaloneArguments) -> Result<(), Failure> {
    let (file, exposure, json) = read(&arguments.server)?;
    if file.replication.options().map_err(Failure::not_started)?.is_some() {
        return Err(Failure::not_started("a node of a group is started with `staticfire broker`"));
    }
    let settings = arguments.broker.over(file.broker);
    let listen = arguments.name_server_listen.or(file.name_server.listen);
    let name_server = name_server_options(listen, exposure).map_err(Failure::not_started)?;
    let host = Host::start()?;
    if let Some(size) = arguments.group {
        return host.serve_group(size, name_server, &settings, exposure, json);
    }
    let name_server = host.name_server(name_server)?;
    let mut broker = settings.broker_options(exposure).map_err(Failure::not_started)?;
    broker.name_servers.push(dialed(name_server.address()).into());
    let broker = host.broker(broker, &settings)?;
    let serving = Serving {
        command: "standalone",
        name_server: Some(name_server.address()),
        broker: Some(ServingBroker::of(&broker, &settings)),
    };
    let metrics = host.metrics(&settings, std::slice::from_ref(&broker))?;
    serving.print(json, metrics);
    host.serve(vec![broker], vec![name_server])
}

pub fn name_server(arguments: NameServerArguments) -> Result<(), Failure> {
    let (file, exposure, json) = read(&arguments.server)?;
    let listen = arguments.listen.or(file.name_server.listen);
    let options = name_server_options(listen, exposure).map_err(Failure::not_started)?;
    let host = Host::start()?;
    let name_server = host.name_server(options)?;
    Serving { command: "name-server", name_server: Some(name_server.address()), broker: None }
        .print(json, None);
    host.serve(Vec::new(), vec![name_server])
}

pub fn broker(arguments: BrokerArguments) -> Result<(), Failure> {
    let (file, exposure, json) = read(&arguments.server)?;
    let settings = arguments.broker.over(file.broker);
    let replication = arguments.replication.over(file.replication);
    let mut options = settings.broker_options(exposure).map_err(Failure::not_started)?;
    options.replication = settings.group_options(&replication, exposure).map_err(Failure::not_started)?;
    if options.name_servers.is_empty() {
        options.name_servers = name_servers::of_environment()?;
    }
    let host = Host::start()?;
    let broker = host.broker(options, &settings)?;
    let serving =
        Serving { command: "broker", name_server: None, broker: Some(ServingBroker::of(&broker, &settings)) };
    let metrics = host.metrics(&settings, std::slice::from_ref(&broker))?;
    serving.print(json, metrics);
    host.serve(vec![broker], Vec::new())
}

fn read(server: &ServerArguments) -> Result<(File, Exposure, bool), Failure> {
    let file = File::read(server.config.as_deref()).map_err(Failure::not_started)?;
    let exposure = server.exposure.over(file.exposure);
    Ok((file, exposure, server.json))
}

/// The address a server of this process is reached at: it may listen on all of them.
fn dialed(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listening.port())
}

/// Connections and queue files are many: takes all the file handles that the system lets us have.
/// With too few it would start, and fail at the first new topic.
fn raise_file_limit() -> Result<(), Failure> {
    let limit = getrlimit(Resource::Nofile);
    // Refused: it serves with what there is, and more connections are turned away.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    match getrlimit(Resource::Nofile).current {
        Some(files) if files < FILES_MIN => Err(Failure::not_started(format!(
            "this process may open {files} files, and a server needs {FILES_MIN} at least: raise the limit \
             (ulimit -Hn)"
        ))),
        _ => Ok(()),
    }
}

/// Sockets, and the signals that end them.
struct Host {
    tcp: Tcp,
    end: EndRequests,
}

impl Host {
    fn start() -> Result<Self, Failure> {
        raise_file_limit()?;
        let end = EndRequests::listen().map_err(Failure::not_started)?;
        let tcp = Tcp::start(TcpOptions::default()).map_err(Failure::not_started)?;
        Ok(Self { tcp, end })
    }

    fn name_server(&self, options: NameServerOptions) -> Result<NameServer, Failure> {
        let runtime: Arc<dyn Runtime> = Arc::new(self.tcp.clone());
        NameServer::start(&self.tcp, runtime, options).map_err(|error| {
            Failure::not_started(format!("the name server cannot listen on {}: {error}", options.listen))
        })
    }

    fn broker(&self, options: BrokerOptions, settings: &BrokerSettings) -> Result<Broker, Failure> {
        let data = settings.data();
        let store = settings.store_options();
        let transport: Arc<dyn Transport> = Arc::new(self.tcp.clone());
        let runtime: Arc<dyn Runtime> = Arc::new(self.tcp.clone());
        let started = self.tcp.block_on(Broker::start(transport, runtime, options, store));
        let broker =
            started.map_err(|error| Failure::not_started(format!("store {}: {error}", data.display())))?;
        let report = broker.store().report().to_string();
        if !report.trim().is_empty() {
            eprintln!("{}", report.trim_end());
        }
        let told = tell(broker.store().clone(), broker.node_view(), Arc::new(self.tcp.clone()));
        self.tcp.spawn(Box::pin(told));
        Ok(broker)
    }

    /// Serves the brokers' metrics, if that is asked for.
    fn metrics(&self, settings: &BrokerSettings, brokers: &[Broker]) -> Result<Option<SocketAddr>, Failure> {
        let views = brokers.iter().map(Broker::node_view).collect();
        settings.metrics.map(|listen| super::metrics::serve(listen, views)).transpose()
    }

    /// Serves until the end is asked for, then stops: the store's mark of a clean end comes last.
    fn serve(self, brokers: Vec<Broker>, name_servers: Vec<NameServer>) -> Result<(), Failure> {
        self.end.wait();
        let (leaders, others): (Vec<_>, Vec<_>) =
            brokers.into_iter().partition(|broker| broker.role().is_some_and(|role| role.serves()));
        let mut stopped = Ok(());
        for broker in others.into_iter().chain(leaders) {
            stopped = self.tcp.block_on(broker.stop()).and(stopped);
        }
        drop(name_servers);
        self.tcp.stop();
        stopped.map_err(Failure::not_well)
    }

    /// Serves as a whole group that elects, with two name servers, for a look.
    fn serve_group(
        self,
        size: u16,
        name_server: NameServerOptions,
        settings: &BrokerSettings,
        exposure: Exposure,
        json: bool,
    ) -> Result<(), Failure> {
        let second = NameServerOptions { listen: further(name_server.listen, 1), ..name_server };
        let name_servers = vec![self.name_server(name_server)?, self.name_server(second)?];
        let first = settings.broker_options(exposure).map_err(Failure::not_started)?;
        let listen = |node: u16| further(first.listen, (node - 1) * PORTS_APART);
        let mut peers = BTreeMap::new();
        for node in 1..=size {
            peers.insert(NodeId(node.into()), self.free(further(listen(node), 1))?);
        }
        let mut brokers = Vec::new();
        for node in 1..=size {
            let mut options = first.clone();
            options.listen = listen(node);
            options.advertised = first.advertised.map(|told| further(told, (node - 1) * PORTS_APART));
            options.name_servers.extend(name_servers.iter().map(|server| dialed(server.address()).into()));
            options.replication = Some(GroupOptions::new(NodeId(node.into()), peers.clone(), Failover::Raft));
            let data = Some(settings.data().join(format!("node-{node}")));
            brokers.push(self.broker(options, &BrokerSettings { data, ..settings.clone() })?);
        }
        let until = self.tcp.now() + ELECTION;
        let leads = |broker: &Broker| broker.role().is_some_and(|role| role.serves());
        while !brokers.iter().any(leads) && self.tcp.now() < until {
            self.tcp.block_on(self.tcp.sleep(LOOK_INTERVAL / 10));
        }
        self.metrics(settings, &brokers)?;
        let leader = brokers.iter().position(leads).map(|index| index + 1);
        print_group(json, &brokers, &name_servers, leader, settings);
        self.serve(brokers, name_servers)
    }

    /// The address, or for port 0 one with a port that is free now.
    fn free(&self, address: SocketAddr) -> Result<SocketAddr, Failure> {
        if address.port() != 0 {
            return Ok(address);
        }
        let listener = self.tcp.listen(address, Arc::new(Nobody)).map_err(Failure::not_started)?;
        Ok(listener.address())
    }
}

/// An address with a port so much higher; port 0 stays.
fn further(address: SocketAddr, by: u16) -> SocketAddr {
    let port = if address.port() == 0 { 0 } else { address.port().saturating_add(by) };
    SocketAddr::new(address.ip(), port)
}

/// Answers nothing.
struct Nobody;

impl Service for Nobody {
    fn turn(&self, connection: &Connection, requests: &mut Vec<Command>) {
        requests.clear();
        connection.close();
    }
}

fn print_group(
    json: bool,
    brokers: &[Broker],
    name_servers: &[NameServer],
    leader: Option<usize>,
    settings: &BrokerSettings,
) {
    let name_servers: Vec<String> = name_servers.iter().map(|server| server.address().to_string()).collect();
    let nodes: Vec<String> = brokers.iter().map(|broker| broker.address().to_string()).collect();
    let leads = leader.map_or("nobody leads yet".to_owned(), |leader| format!("node {leader} leads"));
    let data = settings.data();
    let data = data.canonicalize().unwrap_or(data).display().to_string();
    if json {
        let line = serde_json::json!({
            "serves": "standalone", "name_server": name_servers[0], "name_servers": name_servers,
            "brokers": nodes, "leader": leader, "data": data, "durability": "quorum", "auth": false, "tls": false,
            "recovery": brokers.iter().map(recovery).collect::<Vec<_>>(),
        });
        println!("{line}");
        return;
    }
    println!(
        "staticfire standalone serves: name servers at {}, nodes 1 to {} at {}, {leads}, durability quorum, data \
         {data}, auth off, TLS off",
        name_servers.join(" "),
        nodes.len(),
        nodes.join(" ")
    );
}

const fn failover_name(failover: Failover) -> &'static str {
    match failover {
        Failover::Raft => "raft",
        Failover::Master { .. } => "master",
        Failover::Slave => "slave",
    }
}

/// Says what goes wrong with a broker while it serves, each thing once: a failed flush, after which
/// nothing more is taken until the next start, or a full disk; and when it begins or ends to lead its group.
async fn tell(store: Store, node: NodeView, runtime: Arc<dyn Runtime>) {
    let (mut told, mut led) = (None, None);
    loop {
        runtime.sleep(LOOK_INTERVAL).await;
        let trouble = store.failure().map(ToString::to_string).or_else(|| store.trouble());
        let trouble = trouble.or_else(|| node.trouble());
        if trouble != told {
            trouble.iter().for_each(|words| eprintln!("staticfire: {words}"));
            told = trouble;
        }
        node.take_cuts().iter().for_each(|cut| eprintln!("staticfire: {cut}"));
        let leads = match node.role() {
            Some(Role::Leader { epoch, serves: true, .. }) => Some(epoch),
            _ => None,
        };
        if leads != led {
            let at = store.store_host();
            match leads {
                Some(epoch) => eprintln!("staticfire: the broker at {at} leads its group, epoch {epoch}"),
                None => eprintln!("staticfire: the broker at {at} leads its group no more"),
            }
            led = leads;
        }
    }
}

impl<'a> ServingBroker<'a> {
    fn of(broker: &'a Broker, settings: &BrokerSettings) -> Self {
        let data = settings.data();
        let data = data.canonicalize().unwrap_or(data);
        let (options, address) = (broker.options(), broker.address());
        Self { options, address, mode: settings.mode(), data, recovery: recovery(broker) }
    }
}

/// What was found when the broker's store was opened, a line each.
fn recovery(broker: &Broker) -> Vec<String> {
    broker.store().report().to_string().trim().lines().map(str::to_owned).collect()
}

impl Serving<'_> {
    /// Prints the line. Whoever reads it may connect.
    fn print(&self, json: bool, metrics: Option<SocketAddr>) {
        let metrics = metrics.map(|at| format!("http://{at}/metrics"));
        if json {
            let mut line = self.json();
            if let Some(metrics) = metrics {
                line["metrics"] = metrics.into();
            }
            return println!("{line}");
        }
        println!("{}{}", self.words(), metrics.map_or(String::new(), |at| format!(", metrics {at}")));
    }

    fn words(&self) -> String {
        let mut parts = Vec::new();
        if let Some(broker) = &self.broker {
            let ServingBroker { options, address, mode, data, .. } = broker;
            parts.push(format!("broker {} of {} at {address}", options.name, options.cluster));
            if self.name_server.is_none() {
                let at: Vec<String> = options.name_servers.iter().map(ToString::to_string).collect();
                let at = if at.is_empty() { "none".to_owned() } else { at.join(" ") };
                parts.push(format!("name servers {at}"));
            }
            match &options.replication {
                None => parts.push(format!("durability {}", mode.name())),
                Some(group) => parts.push(format!(
                    "node {} of {} ({}), replication at {}, durability {}",
                    group.node,
                    group.peers.len(),
                    failover_name(group.failover),
                    group.listen,
                    group.mode
                )),
            }
            parts.push(format!("data {}", data.display()));
        }
        if let Some(address) = self.name_server {
            parts.insert(0, format!("name server at {address}"));
        }
        format!("staticfire {} serves: {}, auth off, TLS off", self.command, parts.join(", "))
    }

    fn json(&self) -> serde_json::Value {
        let mut line = serde_json::json!({ "serves": self.command, "auth": false, "tls": false });
        if let Some(address) = self.name_server {
            line["name_server"] = address.to_string().into();
        }
        if let Some(ServingBroker { options, address, mode, data, recovery }) = &self.broker {
            line["broker"] = address.to_string().into();
            line["broker_name"] = options.name.as_str().into();
            line["cluster"] = options.cluster.as_str().into();
            line["durability"] = mode.name().into();
            if let Some(group) = &options.replication {
                line["durability"] = group.mode.to_string().into();
                line["node"] = group.node.0.into();
                line["replication"] = group.listen.to_string().into();
                line["failover"] = failover_name(group.failover).into();
            }
            line["data"] = data.display().to_string().into();
            line["recovery"] = recovery.as_slice().into();
            let name_servers = options.name_servers.iter().map(ToString::to_string);
            line["name_servers"] = name_servers.collect::<Vec<_>>().into();
        }
        line
    }
}
