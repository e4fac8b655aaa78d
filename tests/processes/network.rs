//! The network between the nodes.
//!
//! ```text
//!   as root: a network namespace for each node               otherwise: loopback
//!
//!   name servers, clients  198.18.0.254                      127.0.0.1
//!        │ bridge
//!   node 1 198.18.0.1 ── node 2 198.18.0.2 ── node 3 …       127.0.0.1, and relays
//! ```
//! Nodes find each other through relays on their own loopback ([`relay`](super::relay)). A way is cut by a
//! route into a black hole where there are namespaces, so that packets vanish and nobody hears of it; by the
//! relay elsewhere. Delay and loss are netem's where the kernel has it, and the relay's elsewhere. 198.18.0.0/15
//! is set aside for measuring networks (RFC 2544); nothing leaves the namespaces.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a thread enters a network namespace, whose file it opens"
)]

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use staticfire::transport::tcp::Tcp;

use super::group::{NODES, Site, free_addresses};
use super::relay::{Weather, relay};
use super::server::run;

/// Where clients and name servers are.
const OURS: &str = "198.18.0.254";
/// Where a node listens for clients, and for the other nodes.
const PORTS: (u16, u16) = (10_911, 10_912);
/// Where `ip` keeps the names of namespaces.
const NAMESPACES: &str = "/run/netns";
/// What the small disk of the first node holds.
const DISK: &str = "size=192m";

pub struct Network {
    namespaces: bool,
    netem: bool,
    weather: Vec<Arc<Weather>>,
}

impl Network {
    /// The network that this process may make, and the sites on it.
    pub fn make(tcp: &Tcp, namespaces: bool, data: &Path) -> (Self, Vec<Site>) {
        let weather: Vec<_> = (0..NODES).map(|_| Arc::default()).collect();
        let mut network = Self { namespaces, netem: false, weather };
        let sites = if namespaces { network.in_namespaces(data) } else { network.on_loopback(tcp, data) };
        if namespaces {
            network.netem = netem(0, &["delay", "1ms"]).and_then(|()| netem(0, &[])).is_ok();
            std::fs::create_dir_all(&sites[0].data).unwrap();
            let place = sites[0].data.display().to_string();
            run("mount", &["-t", "tmpfs", "-o", DISK, "tmpfs", &place]).unwrap();
        }
        (network, sites)
    }

    /// Where name servers listen.
    pub fn name_servers_at(&self) -> String {
        format!("{}:0", if self.namespaces { OURS } else { "127.0.0.1" })
    }

    /// In words.
    pub fn words(&self) -> String {
        let (cuts, weather) = (
            if self.namespaces {
                "network namespaces, ways cut by routes"
            } else {
                "loopback, ways cut by relays"
            },
            if self.netem { "netem" } else { "relays (this kernel has no netem)" },
        );
        format!("{cuts}, delay and loss by {weather}")
    }

    fn on_loopback(&self, tcp: &Tcp, data: &Path) -> Vec<Site> {
        let listen = free_addresses(tcp);
        let site = |node: usize| Site {
            inside: Vec::new(),
            data: data.join((node + 1).to_string()),
            listen: "127.0.0.1:0".to_owned(),
            advertise: None,
            peers: self.peers(node, &listen),
            listen_for_nodes: None,
            exposed: false,
        };
        (0..NODES).map(site).collect()
    }

    fn in_namespaces(&self, data: &Path) -> Vec<Site> {
        let ip = |words: &str| run("ip", &words.split(' ').collect::<Vec<_>>()).unwrap();
        // Namespaces are named by files here, which are ours alone.
        std::fs::create_dir_all(NAMESPACES).unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", NAMESPACES]).unwrap();
        ip("link set lo up");
        ip("link add bridge type bridge");
        ip(&format!("addr add {OURS}/24 dev bridge"));
        ip("link set bridge up");
        let mut sites = Vec::new();
        let at = |node: usize, port| format!("{}:{port}", address(node));
        let listen: Vec<SocketAddr> = (0..NODES).map(|node| at(node, PORTS.1).parse().unwrap()).collect();
        for node in 0..NODES {
            let name = name(node);
            ip(&format!("netns add {name}"));
            ip(&format!("link add to-{name} type veth peer name eth0 netns {name}"));
            ip(&format!("link set to-{name} master bridge up"));
            ip(&format!("-n {name} addr add {}/24 dev eth0", address(node)));
            ip(&format!("-n {name} link set eth0 up"));
            ip(&format!("-n {name} link set lo up"));
        }
        for node in 0..NODES {
            sites.push(Site {
                inside: ["ip", "netns", "exec", &name(node)].map(str::to_owned).into(),
                data: data.join((node + 1).to_string()),
                listen: format!("0.0.0.0:{}", PORTS.0),
                advertise: Some(at(node, PORTS.0)),
                peers: thread::scope(|threads| {
                    // A thread that entered stays there, with those it starts.
                    let entered = threads.spawn(|| {
                        let namespace = File::open(Path::new(NAMESPACES).join(name(node))).unwrap();
                        let network = Some(LinkNameSpaceType::Network);
                        move_into_link_name_space(namespace.as_fd(), network).unwrap();
                        self.peers(node, &listen)
                    });
                    entered.join().unwrap()
                }),
                listen_for_nodes: None,
                exposed: true,
            });
        }
        sites
    }

    /// What a node is told of all nodes: itself where it listens, the others by way of relays.
    fn peers(&self, node: usize, listen: &[SocketAddr]) -> Vec<String> {
        let at = |to: usize| {
            if to == node { listen[to] } else { relay(node, to, listen[to], &self.weather).unwrap() }
        };
        (0..NODES).map(|to| format!("{}={}", to + 1, at(to))).collect()
    }

    /// From now on, or no more, nothing that one node sends reaches the other.
    pub fn cut(&self, from: usize, to: usize, cut: bool) {
        if self.namespaces {
            black_hole(from, &format!("{}/32", address(to)), cut);
        } else {
            let (ways, way) = (&self.weather[from].cut, 1 << to);
            let _ = if cut {
                ways.fetch_or(way, Ordering::Relaxed)
            } else {
                ways.fetch_and(!way, Ordering::Relaxed)
            };
        }
    }

    /// From now on, or no more, nothing that a node sends reaches anybody: with namespaces clients and name
    /// servers neither.
    pub fn mute(&self, node: usize, cut: bool) {
        (0..NODES).filter(|to| *to != node).for_each(|to| self.cut(node, to, cut));
        if self.namespaces {
            black_hole(node, &format!("{OURS}/32"), cut);
        }
    }

    /// What a node sends travels so long, at most, and so many packets in a thousand are lost.
    pub fn set_weather(&self, node: usize, delay_ms: u32, lost: u32) {
        if self.netem {
            let (least, spread) = (delay_ms * 3 / 4, delay_ms / 4);
            let (delay, spread, lost) =
                (format!("{least}ms"), format!("{spread}ms"), format!("{}%", f64::from(lost) / 10.0));
            let clear = delay_ms == 0 && lost == "0%";
            let words = ["delay", &delay, &spread, "loss", &lost];
            netem(node, if clear { &[] } else { &words }).unwrap();
        } else {
            self.weather[node].delay_ms.store(delay_ms / 2, Ordering::Relaxed);
            self.weather[node].jitter_ms.store(delay_ms / 2, Ordering::Relaxed);
            self.weather[node].lost.store(lost, Ordering::Relaxed);
        }
    }
}

fn name(node: usize) -> String {
    format!("node-{}", node + 1)
}

fn address(node: usize) -> String {
    format!("198.18.0.{}", node + 1)
}

fn black_hole(node: usize, to: &str, cut: bool) {
    let what = if cut { "add" } else { "del" };
    run("ip", &["-n", &name(node), "route", what, "blackhole", to]).unwrap();
}

/// Sets what netem does with everything a node sends; nothing: no more.
fn netem(node: usize, words: &[&str]) -> Result<(), String> {
    let name = name(node);
    let set = ["-n", &name, "qdisc", "replace", "dev", "eth0", "root", "netem"];
    let clear = ["-n", &name, "qdisc", "del", "dev", "eth0", "root"];
    let all = if words.is_empty() { clear.to_vec() } else { [&set, words].concat() };
    run("tc", &all).map(drop)
}
