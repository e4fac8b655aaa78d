//! Three nodes that elect, and two name servers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use staticfire::client::{Client, ClientOptions};
use staticfire::transport::tcp::Tcp;
use staticfire::transport::{self, Connection, Runtime, Service, Transport};

use super::server::{Server, command};

/// Nodes of a group.
pub const NODES: usize = 3;

/// Where a node lives, and what it is told.
pub struct Site {
    /// The command that puts a program there; empty: here.
    pub inside: Vec<String>,
    pub data: PathBuf,
    /// Where it listens for clients.
    pub listen: String,
    /// Where clients find it, if that is elsewhere.
    pub advertise: Option<String>,
    /// Where it finds the nodes: `number=address`.
    pub peers: Vec<String>,
    /// Where it listens for them, if that is not where it finds itself.
    pub listen_for_nodes: Option<String>,
    /// Said when it leaves loopback.
    pub exposed: bool,
}

pub struct Group {
    pub sites: Vec<Site>,
    pub nodes: Vec<Option<Server>>,
    pub name_servers: Vec<Server>,
}

impl Group {
    /// Three nodes on loopback, with their data in folders of `data`.
    pub fn on_loopback(tcp: &Tcp, data: &Path) -> Self {
        let peers = free_addresses(tcp);
        let peers: Vec<String> = (1..).zip(peers).map(|(number, at)| format!("{number}={at}")).collect();
        let site = |number: usize| Site {
            inside: Vec::new(),
            data: data.join(number.to_string()),
            listen: "127.0.0.1:0".to_owned(),
            advertise: None,
            peers: peers.clone(),
            listen_for_nodes: None,
            exposed: false,
        };
        Self::start((1..=NODES).map(site).collect(), "127.0.0.1:0")
    }

    /// Starts the name servers at such an address, and a node at each site.
    pub fn start(sites: Vec<Site>, name_servers_at: &str) -> Self {
        let exposed = sites.iter().any(|site| site.exposed);
        let server = |_| {
            let mut arguments = vec!["name-server", "--listen", name_servers_at];
            arguments.extend(exposure(exposed));
            Server::start(&[], &owned(&arguments))
        };
        let nodes = sites.iter().map(|_| None).collect();
        let mut group = Self { sites, nodes, name_servers: (0..2).map(server).collect() };
        (0..NODES).for_each(|index| group.boot(index));
        group
    }

    /// Starts a node that is not there.
    pub fn boot(&mut self, index: usize) {
        let site = &self.sites[index];
        let number = (index + 1).to_string();
        let (peers, data) = (site.peers.join(","), site.data.display().to_string());
        let name_servers = self.name_server_addresses().join(",");
        let mut arguments = vec!["broker", "--failover", "raft", "--node", &number, "--peer", &peers];
        arguments.extend(["--data", &data, "--listen", &site.listen, "--segment-bytes", "8388608"]);
        arguments.extend(["--name-server", &name_servers]);
        arguments.extend(site.advertise.iter().flat_map(|at| ["--advertise", at.as_str()]));
        arguments.extend(site.listen_for_nodes.iter().flat_map(|at| ["--replication-listen", at.as_str()]));
        arguments.extend(exposure(site.exposed));
        self.nodes[index] = Some(Server::start(&site.inside, &owned(&arguments)));
    }

    /// Kills a node as nothing can prevent.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index] = None;
    }

    /// Sends a signal to a node that is there.
    pub fn signal(&self, index: usize, signal: Signal) {
        self.nodes[index].as_ref().unwrap().signal(signal);
    }

    fn name_server_addresses(&self) -> Vec<String> {
        let address = |server: &Server| server.line["name_server"].as_str().unwrap().to_owned();
        self.name_servers.iter().map(address).collect()
    }

    pub fn client(&self, tcp: &Tcp) -> Client {
        let addresses: Vec<SocketAddr> =
            self.name_server_addresses().iter().map(|address| address.parse().unwrap()).collect();
        Client::new(Arc::new(tcp.clone()), Arc::new(tcp.clone()), ClientOptions::new(addresses))
    }

    /// What the operator of a node is told; `None` when it does not answer.
    pub fn admin(&self, index: usize, what: &str) -> Option<Value> {
        let site = &self.sites[index];
        let at: SocketAddr = self.nodes[index].as_ref()?.line["broker"].as_str()?.parse().ok()?;
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, at.port())).to_string();
        let mut admin = command(&site.inside);
        let answer = admin.args(["admin", what, "--json", "--broker", &at]).output().ok()?;
        serde_json::from_slice(&answer.stdout).ok()
    }

    /// Hands the leadership over; what the operator of a group on one machine is told.
    pub fn transfer(&self) -> Value {
        let address = |node: &Server| node.line["broker"].as_str().unwrap().to_owned();
        let all: Vec<String> = self.nodes.iter().flatten().map(address).collect();
        let mut admin = command(&[]);
        let answer = admin.args(["admin", "transfer", "--json", "--broker", &all.join(",")]).output();
        serde_json::from_slice(&answer.unwrap().stdout).unwrap()
    }

    /// What a node says of itself.
    pub fn status(&self, index: usize) -> Option<Value> {
        self.admin(index, "status")?["nodes"].as_array()?.first().cloned()
    }

    /// The node that leads and serves, if one says so of itself.
    pub fn leader_now(&self) -> Option<usize> {
        let serves = |index: &usize| self.status(*index).is_some_and(|status| status["serves"] == true);
        (0..NODES).find(serves)
    }

    /// The node that leads and serves.
    pub fn leader(&self, tcp: &Tcp) -> usize {
        for _ in 0..200 {
            if let Some(leader) = self.leader_now() {
                return leader;
            }
            tcp.block_on(tcp.sleep(Duration::from_millis(50)));
        }
        panic!("nobody leads after 10 s");
    }
}

fn exposure(exposed: bool) -> &'static [&'static str] {
    if exposed { &["--without-authentication", "--without-tls"] } else { &[] }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

struct Nobody;

impl Service for Nobody {
    fn turn(&self, _: &Connection, requests: &mut Vec<transport::Command>) {
        requests.clear();
    }
}

/// Addresses that were free a moment ago, one for each node.
pub fn free_addresses(tcp: &Tcp) -> Vec<SocketAddr> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listeners: Vec<_> = (0..NODES).map(|_| tcp.listen(any, Arc::new(Nobody)).unwrap()).collect();
    listeners.iter().map(transport::Listener::address).collect()
}
