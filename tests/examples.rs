//! The examples of clients, against the binary.
#![cfg(all(unix, feature = "cli"))]
#![allow(clippy::disallowed_methods, reason = "it stands outside, with processes")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use staticfire::transport::Endpoint;

#[path = "../examples/producer.rs"]
mod producer;
#[path = "../examples/push_consumer.rs"]
mod push_consumer;

/// Killed when the test ends, however it ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// proves: M43, M45: a stranger's first two programs
#[test]
fn what_the_example_sends_the_example_consumes() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_staticfire"));
    command.args(["standalone", "--json", "--listen", "127.0.0.1:0", "--name-server-listen", "127.0.0.1:0"]);
    command.arg("--data").arg(folder.path()).stdout(Stdio::piped());
    let mut server = Server(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let name_server: Endpoint = line["name_server"].as_str().unwrap().parse().unwrap();
    producer::produce(name_server.clone(), 20).unwrap();
    push_consumer::consume(name_server, 20).unwrap();
}
