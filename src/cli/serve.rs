//! The three servers: start, say so in one line, wait for a signal, stop cleanly.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use staticfire::broker::{Broker, BrokerOptions};
use staticfire::name_server::NameServer;
use staticfire::storage::Store;
use staticfire::transport::tcp::{Tcp, TcpOptions};
use staticfire::transport::{Runtime, Transport};

use super::Failure;
use super::arguments::{BrokerArguments, NameServerArguments, ServerArguments, StandaloneArguments};
use super::settings::{BrokerSettings, Exposure, File, Mode, name_server_options};
use super::signals::EndRequests;

/// Fewer open files than this are too few for a server.
const FILES_MIN: u64 = 256;
/// How often the store is asked whether it is well.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(1);

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
}

pub fn standalone(arguments: StandaloneArguments) -> Result<(), Failure> {
    let (file, exposure, json) = read(&arguments.server)?;
    let settings = arguments.broker.over(file.broker);
    let listen = arguments.name_server_listen.or(file.name_server.listen);
    let name_server = name_server_options(listen, exposure).map_err(Failure::not_started)?;
    let host = Host::start()?;
    let name_server = host.name_server(name_server)?;
    let mut broker = settings.broker_options(exposure).map_err(Failure::not_started)?;
    broker.name_servers.push(dialed(name_server.address()));
    let broker = host.broker(broker, &settings)?;
    let serving = Serving {
        command: "standalone",
        name_server: Some(name_server.address()),
        broker: Some(ServingBroker::of(&broker, &settings)),
    };
    serving.print(json);
    host.serve(Some(broker), Some(name_server))
}

pub fn name_server(arguments: NameServerArguments) -> Result<(), Failure> {
    let (file, exposure, json) = read(&arguments.server)?;
    let listen = arguments.listen.or(file.name_server.listen);
    let options = name_server_options(listen, exposure).map_err(Failure::not_started)?;
    let host = Host::start()?;
    let name_server = host.name_server(options)?;
    Serving { command: "name-server", name_server: Some(name_server.address()), broker: None }.print(json);
    host.serve(None, Some(name_server))
}

pub fn broker(arguments: BrokerArguments) -> Result<(), Failure> {
    let (file, exposure, json) = read(&arguments.server)?;
    let settings = arguments.broker.over(file.broker);
    let options = settings.broker_options(exposure).map_err(Failure::not_started)?;
    let host = Host::start()?;
    let broker = host.broker(options, &settings)?;
    let serving =
        Serving { command: "broker", name_server: None, broker: Some(ServingBroker::of(&broker, &settings)) };
    serving.print(json);
    host.serve(Some(broker), None)
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

    fn name_server(
        &self,
        options: staticfire::name_server::NameServerOptions,
    ) -> Result<NameServer, Failure> {
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
        self.tcp.spawn(Box::pin(tell_trouble(broker.store().clone(), Arc::new(self.tcp.clone()))));
        Ok(broker)
    }

    /// Serves until the end is asked for, then stops: the store's mark of a clean end comes last.
    fn serve(self, broker: Option<Broker>, name_server: Option<NameServer>) -> Result<(), Failure> {
        self.end.wait();
        let stopped = match broker {
            Some(broker) => self.tcp.block_on(broker.stop()),
            None => Ok(()),
        };
        drop(name_server);
        self.tcp.stop();
        stopped.map_err(Failure::not_well)
    }
}

/// Says what goes wrong with the store while it is served, each thing once: a failed flush, after which
/// nothing more is taken until the next start, or a full disk.
async fn tell_trouble(store: Store, runtime: Arc<dyn Runtime>) {
    let mut told = None;
    loop {
        runtime.sleep(TROUBLE_INTERVAL).await;
        let trouble = store.failure().map(ToString::to_string).or_else(|| store.trouble());
        if trouble != told {
            trouble.iter().for_each(|words| eprintln!("staticfire: {words}"));
            told = trouble;
        }
    }
}

impl<'a> ServingBroker<'a> {
    fn of(broker: &'a Broker, settings: &BrokerSettings) -> Self {
        let data = settings.data();
        let data = data.canonicalize().unwrap_or(data);
        Self { options: broker.options(), address: broker.address(), mode: settings.mode(), data }
    }
}

impl Serving<'_> {
    /// Prints the line. Whoever reads it may connect.
    fn print(&self, json: bool) {
        println!("{}", if json { self.json().to_string() } else { self.words() });
    }

    fn words(&self) -> String {
        let mut parts = Vec::new();
        if let Some(broker) = &self.broker {
            let ServingBroker { options, address, mode, data } = broker;
            parts.push(format!("broker {} of {} at {address}", options.name, options.cluster));
            if self.name_server.is_none() {
                let at: Vec<String> = options.name_servers.iter().map(ToString::to_string).collect();
                let at = if at.is_empty() { "none".to_owned() } else { at.join(" ") };
                parts.push(format!("name servers {at}"));
            }
            parts.push(format!("durability {}", mode.name()));
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
        if let Some(ServingBroker { options, address, mode, data }) = &self.broker {
            line["broker"] = address.to_string().into();
            line["broker_name"] = options.name.as_str().into();
            line["cluster"] = options.cluster.as_str().into();
            line["durability"] = mode.name().into();
            line["data"] = data.display().to_string().into();
            let name_servers = options.name_servers.iter().map(ToString::to_string);
            line["name_servers"] = name_servers.collect::<Vec<_>>().into();
        }
        line
    }
}
