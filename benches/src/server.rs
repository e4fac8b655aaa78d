//! Servers as processes of their own, so that their CPU time can be told from everybody else's.
//!
//! A benchmark starts itself again with `--serve`; the child prints its address and serves until
//! its standard input ends.

#![expect(clippy::disallowed_methods, reason = "a thread of the benchmark waits for its end")]

use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use staticfire::broker::{Broker, BrokerOptions, GroupOptions};
use staticfire::replication::{Failover, NodeId};
use staticfire_storage::{Durability, StoreOptions};
use staticfire_transport::tcp::{Tcp, TcpOptions};
use staticfire_transport::{Runtime, Transport};

use crate::floor::Floor;
use crate::placement;

/// The first argument of a child.
const SERVE: &str = "--serve";

/// Segments of brokers in groups, of which there are many at a time.
const MEMBER_SEGMENT: u64 = 128 << 20;

/// What a child serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Floor`].
    Floor,
    /// [`Broker`], with the options of the command line and no name server.
    Broker,
}

/// A broker of a group: what `staticfire broker` says with `--node`, `--peer`, `--role` or `--failover`,
/// and `--mode`.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its number.
    pub number: u32,
    /// All nodes, and where this one finds them; itself where it listens.
    pub peers: Vec<(u32, SocketAddr)>,
    /// `master`, `slave`, or `raft` for a group that elects.
    pub role: &'static str,
    /// What OK means.
    pub mode: &'static str,
}

/// A server in a process of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Starts this program again as a server with its data in `directory`.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(kind: Kind, flushed: bool, directory: &Path) -> Self {
        let kind = if kind == Kind::Floor { "floor" } else { "broker" };
        let mode = if flushed { "flushed" } else { "written" };
        Self::spawn(&[kind, mode], directory)
    }

    /// As [`Server::start`], for a broker of a group.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_member(member: &Member, directory: &Path) -> Self {
        let peers = member.peers.iter().map(|(number, at)| format!("{number}={at}")).collect::<Vec<_>>();
        let number = member.number.to_string();
        Self::spawn(&[member.role, member.mode, &number, &peers.join(",")], directory)
    }

    fn spawn(kind: &[&str], directory: &Path) -> Self {
        std::fs::create_dir_all(directory).expect("a directory for the log");
        let program = std::env::current_exe().expect("a program has a path");
        let mut child = Command::new(program)
            .arg(SERVE)
            .arg(directory)
            .args(kind)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let mut line = String::new();
        let output = child.stdout.take().expect("standard output is piped");
        BufReader::new(output).read_line(&mut line).expect("the server says where it listens");
        let address = line.trim().parse().unwrap_or_else(|error| panic!("{kind:?} said {line:?}: {error}"));
        Self { child, address }
    }

    /// CPU seconds of all its threads so far: from the scheduler's account in ns, which
    /// `/proc/<pid>/stat` shows in ticks of 10 ms.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        let tasks = format!("/proc/{}/task", self.child.id());
        let Ok(tasks) = std::fs::read_dir(tasks) else { return f64::NAN };
        let of = |task: std::fs::DirEntry| -> Option<f64> {
            let account = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            Some(account.split(' ').next()?.parse::<f64>().ok()? / 1e9)
        };
        tasks.filter_map(Result::ok).filter_map(of).sum()
    }

    /// Lets it run on these processors; see [`placement`].
    pub fn pin(&self, cpus: &[usize]) {
        placement::pin_process(self.child.id(), cpus);
    }

    /// Counts its system calls by `strace` while `work` runs; `None` where that cannot be had.
    pub fn system_calls(&self, work: impl FnOnce()) -> Option<u64> {
        let counts = tempfile_path();
        let mut tracer = Command::new("strace")
            .args(["-f", "-c", "-o"])
            .arg(&counts)
            .args(["-p", &self.child.id().to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        // It says so when it is attached.
        let mut line = String::new();
        let stderr = tracer.stderr.take()?;
        let mut stderr = BufReader::new(stderr);
        stderr.read_line(&mut line).ok()?;
        if !line.contains("attached") {
            let _ = tracer.wait();
            return None;
        }
        work();
        let id = rustix::process::Pid::from_child(&tracer);
        rustix::process::kill_process(id, rustix::process::Signal::INT).ok()?;
        let _ = tracer.wait();
        let table = std::fs::read_to_string(&counts).ok()?;
        let _ = std::fs::remove_file(&counts);
        let total = table.lines().find(|line| line.ends_with(" total"))?;
        total.split_whitespace().nth(3)?.parse().ok()
    }
}

fn tempfile_path() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("staticfire-strace-{}", std::process::id()))
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Serves, if this process was started for that; then it does not return.
pub fn serve_if_asked() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [serve, directory, kind, mode, group @ ..] = arguments.as_slice() else { return };
    if serve != SERVE {
        return;
    }
    let (directory, flushed) = (Path::new(directory), mode == "flushed");
    let served = match kind.as_str() {
        "floor" => serve_floor(directory, flushed),
        "broker" => serve_broker(directory, flushed, None),
        role => member(role, mode, group).and_then(|member| serve_broker(directory, flushed, Some(member))),
    };
    if let Err(error) = served {
        eprintln!("{kind}: {error}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

/// What [`Server::start_member`] said.
fn member(role: &str, mode: &str, group: &[String]) -> io::Result<GroupOptions> {
    let [number, peers] = group else { return Err(io::Error::other("a member has a number and peers")) };
    let node = |text: &str| text.parse().map(NodeId).map_err(io::Error::other);
    let failover = match role {
        "master" => Failover::Master { generation: 1 },
        "slave" => Failover::Slave,
        _ => Failover::Raft,
    };
    let peer = |text: &str| {
        let (number, at) = text.split_once('=').ok_or_else(|| io::Error::other("number=address"))?;
        Ok((node(number)?, at.parse().map_err(io::Error::other)?))
    };
    let peers = peers.split(',').map(peer).collect::<io::Result<_>>()?;
    let mut options = GroupOptions::new(node(number)?, peers, failover);
    options.mode = mode.parse().map_err(|error| io::Error::other(format!("{error}")))?;
    Ok(options)
}

fn serve_floor(directory: &Path, flushed: bool) -> io::Result<()> {
    let floor = Floor::start(directory, 1 << 30, flushed)?;
    println!("{}", floor.address()?);
    std::thread::spawn(|| {
        wait_for_the_end();
        std::process::exit(0);
    });
    floor.serve()
}

fn serve_broker(directory: &Path, flushed: bool, replication: Option<GroupOptions>) -> io::Result<()> {
    let tcp = Tcp::start(TcpOptions::default())?;
    let mut store = StoreOptions::at(directory);
    store.durability = if flushed { Durability::Flushed } else { Durability::Written };
    if replication.is_some() {
        store.segment_bytes = MEMBER_SEGMENT;
    }
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options = BrokerOptions { listen, replication, ..BrokerOptions::default() };
    let transport: Arc<dyn Transport> = Arc::new(tcp.clone());
    let runtime: Arc<dyn Runtime> = Arc::new(tcp.clone());
    let started = tcp.block_on(Broker::start(transport, runtime, options, store));
    let broker = started.map_err(io::Error::other)?;
    println!("{}", broker.address());
    wait_for_the_end();
    tcp.block_on(broker.stop()).map_err(io::Error::other)
}

/// Whoever started this closes our standard input, at the latest by ending.
fn wait_for_the_end() {
    let _ = io::stdin().read_to_end(&mut Vec::new());
}
