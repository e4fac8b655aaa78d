//! More peers than anybody wanted, on the real binary.

#![cfg(all(target_os = "linux", feature = "cli"))]
#![allow(clippy::disallowed_methods, reason = "it stands outside, with files and processes")]
#![expect(clippy::disallowed_types, reason = "peers without our transport")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::Value;

const BIN: &str = env!("CARGO_BIN_EXE_staticfire");

/// Killed when dropped.
struct Server {
    child: Child,
    line: Value,
}

impl Server {
    fn start(data: &std::path::Path) -> Self {
        let listen =
            ["standalone", "--json", "--listen", "127.0.0.1:0", "--name-server-listen", "127.0.0.1:0"];
        let mut command = Command::new(BIN);
        command.args(listen).arg("--data").arg(data).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the binary starts");
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line);
        read.expect("it says that it serves");
        Self { child, line: serde_json::from_str(&line).expect("its line is JSON") }
    }

    fn address(&self, of: &str) -> SocketAddr {
        self.line[of].as_str().expect("it has an address").parse().expect("it is one")
    }

    /// KiB of memory of its own.
    fn anonymous(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux says it");
        line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Sends some messages and reads them, as a client that knows nothing of the crowd.
    fn serves(&self, topic: &str) {
        let at = ["--name-server", self.line["name_server"].as_str().expect("an address"), "--topic", topic];
        for (command, more) in [("produce", "--json"), ("consume", "--quiet")] {
            let out = Command::new(BIN).arg(command).args(at).args(["--count", "50", more]).output();
            let out = out.expect("the binary starts");
            assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that comes from this address of the machine.
fn dial(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let dialled = socket(AddressFamily::INET, SocketType::STREAM, None).and_then(|socket| {
        bind(&socket, &SocketAddrV4::new(from, 0))?;
        connect(&socket, &to)?;
        Ok(socket)
    });
    let stream = TcpStream::from(dialled.expect("it is accepted"));
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time");
    stream
}

/// proves: B7, B8
///
/// Two thousand connections, of ten addresses, that say nothing or begin a frame; and one address that wants more
/// than its share. Everybody else is served, and what it costs is bounded.
#[test]
fn a_crowd_of_idle_connections_keeps_nobody_from_being_served() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).expect("up to the limit is allowed");
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path());
    let (broker, name_server) = (server.address("broker"), server.address("name_server"));
    server.serves("before");
    let before = server.anonymous();

    // Nothing, half a length, a length of 16 MiB and a byte of the header.
    let parts = [&b""[..], &[0, 0], &[0, 0xff, 0xff, 0xff, 0, 0, 0, 99, b'{']];
    let crowd: Vec<TcpStream> = (0..2_000_usize)
        .map(|at| {
            let from = Ipv4Addr::new(127, 0, 0, 10 + (at % 10) as u8);
            let mut stream = dial(from, if at % 4 == 0 { name_server } else { broker });
            stream.write_all(parts[at % 3]).expect("it is taken");
            stream
        })
        .collect();
    server.serves("among-them");
    let cost = server.anonymous().saturating_sub(before);
    println!(
        "{} connections at rest: {cost} KiB, {} bytes each",
        crowd.len(),
        (cost << 10) / crowd.len() as u64
    );
    assert!(cost < 16 << 10, "{cost} KiB");

    let greedy = Ipv4Addr::new(127, 0, 0, 99);
    let mut many: Vec<TcpStream> = (0..300).map(|_| dial(greedy, broker)).collect();
    let refused = many.split_off(256);
    for mut stream in refused {
        let end = stream.read(&mut [0]);
        assert!(
            matches!(end, Ok(0))
                || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
        );
    }
    server.serves("beside-the-greedy");
    drop((crowd, many));
    server.serves("after");
}

/// proves: B9, B12
///
/// Noise ends a connection, and going on with it costs the server no more than that.
#[test]
fn peers_that_go_on_sending_after_the_end_cost_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path());
    for _ in 0..50 {
        let mut stream = dial(Ipv4Addr::LOCALHOST, server.address("broker"));
        let noise = vec![0xff; 1 << 20];
        // Until the system tells us that nobody listens.
        while stream.write_all(&noise).is_ok() {}
    }
    server.serves("after-the-noise");
    assert!(server.anonymous() < 25 << 10, "{} KiB", server.anonymous());
}
