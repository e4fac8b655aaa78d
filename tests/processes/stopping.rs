//! What a command says when it is interrupted.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use staticfire::client::{Client, ClientOptions};
use staticfire::transport::Runtime;
use staticfire::transport::tcp::{Tcp, TcpOptions};

use super::server::{Server, command};

/// `produce` that is interrupted sends nothing more, waits for the answers it is owed, says what was acknowledged
/// and exits with 0, for nothing went wrong.
#[test]
fn an_interrupted_producer_says_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().display().to_string();
    let arguments =
        ["standalone", "--data", &data, "--listen", "127.0.0.1:0", "--name-server-listen", "127.0.0.1:0"];
    let server = Server::start(&[], &arguments.map(str::to_owned));
    let name_server = server.line["name_server"].as_str().unwrap().to_owned();
    let mut produce = command(&[]);
    produce.args(["produce", "--topic", "orders", "--count", "100000000", "--json"]);
    let produce = produce.args(["--name-server", &name_server]).stdout(Stdio::piped()).stderr(Stdio::null());
    let produce = produce.spawn().unwrap();
    let tcp = Tcp::start(TcpOptions::default()).unwrap();
    let options = ClientOptions::new([name_server.parse::<std::net::SocketAddr>().unwrap()]);
    let client = Client::new(std::sync::Arc::new(tcp.clone()), std::sync::Arc::new(tcp.clone()), options);
    // The topic is there: it sends.
    while tcp.block_on(client.route("orders")).is_err() {
        tcp.block_on(tcp.sleep(Duration::from_millis(20)));
    }
    tcp.block_on(tcp.sleep(Duration::from_millis(200)));
    kill_process(Pid::from_child(&produce), Signal::INT).unwrap();
    let output = produce.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["failed"], 0);
    let acknowledged = said["acknowledged"].as_u64().unwrap();
    assert!((1..100_000_000).contains(&acknowledged), "{said}");
}
