//! The binary as a user meets it: real processes, ports and directories.
#![cfg(all(unix, feature = "cli"))]
#![allow(clippy::disallowed_methods, reason = "it stands outside, with files and processes")]

use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use staticfire::protocol::codes::request::SEND_MESSAGE_V2;
use staticfire::protocol::headers::SendRequest;
use staticfire::storage::{Durability, Epoch, Message, QueueId, Store, StoreOptions, TopicName};
use staticfire::transport::tcp::{Tcp, TcpOptions};
use staticfire::transport::{self, Connection, Runtime, Service, Transport};

const BIN: &str = env!("CARGO_BIN_EXE_staticfire");

/// Where RocketMQ's clients look for name servers, and ours.
const NAME_SERVERS: &str = "NAMESRV_ADDR";

/// A running server that announced itself. Killed when dropped.
struct Server {
    child: Child,
    line: Value,
    /// Held open: a server whose output nobody reads must not die of it.
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(BIN);
        command.args(arguments).arg("--json").stdout(Stdio::piped()).stderr(Stdio::null());
        command.env_remove(NAME_SERVERS);
        let mut child = command.spawn().expect("the binary starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("it says that it serves");
        let line = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        Self { child, line, _stdout: stdout }
    }

    /// Name server and broker on free ports, on small segments.
    fn standalone(data: &Path, durability: &str) -> Self {
        let listen = ["--listen", "127.0.0.1:0", "--name-server-listen", "127.0.0.1:0"];
        let store = ["--data", text(data), "--durability", durability, "--segment-bytes", "4194304"];
        Self::start(&[&["standalone"], &listen[..], &store[..]].concat())
    }

    fn name_server(&self) -> &str {
        self.line["name_server"].as_str().expect("its name server has an address")
    }

    /// Sends a signal and returns the exit code: `None` when the signal ended it.
    fn end(mut self, signal: &str) -> Option<i32> {
        let kill = format!("kill -{signal} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh runs").success());
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nobody asks us anything.
struct NoService;

impl Service for NoService {
    fn turn(&self, _: &Connection, requests: &mut Vec<transport::Command>) {
        requests.clear();
    }
}

/// Sends one message and waits until it is acknowledged.
fn send_one(tcp: &Tcp, broker: &str) {
    let mut send = transport::Command::request(SEND_MESSAGE_V2).with_body("hello");
    let header = SendRequest {
        producer_group: "producers",
        topic: "orders",
        default_topic: "TBW102",
        default_topic_queues: 4,
        queue_id: 0,
        sys_flag: 0,
        born_ms: 1_700_000_000_000,
        flag: 0,
        properties: "",
        reconsume_times: 0,
        unit_mode: false,
        reconsume_times_max: None,
        batch: false,
        broker_name: None,
    };
    header.write(SEND_MESSAGE_V2, &mut send.ext);
    let broker = broker.parse().expect("the broker has an address");
    let connection = tcp.block_on(tcp.connect(broker, Arc::new(NoService))).expect("it accepts connections");
    let answer = tcp.block_on(connection.call(send, Duration::from_secs(10))).expect("it answers");
    assert_eq!(answer.code, 0, "{answer:?}");
}

/// Runs a command that ends by itself; after a minute it is taken to hang.
fn run(arguments: &[&str]) -> Output {
    run_among(arguments, "")
}

/// As `run`, with name servers in the environment.
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
fn run_among(arguments: &[&str], name_servers: &str) -> Output {
    let (mut stdout, mut stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let mut command = Command::new(BIN);
    command.args(arguments).stdin(Stdio::null()).env(NAME_SERVERS, name_servers);
    command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let mut child = command.spawn().expect("the binary starts");
    let tcp = Tcp::start(TcpOptions::default()).unwrap();
    let start = tcp.now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if tcp.now().since(start) > Duration::from_secs(60) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{arguments:?} did not end");
        }
        tcp.block_on(tcp.sleep(Duration::from_millis(5)));
    };
    let mut output = Output { status, stdout: Vec::new(), stderr: Vec::new() };
    for (file, bytes) in [(&mut stdout, &mut output.stdout), (&mut stderr, &mut output.stderr)] {
        file.rewind().unwrap();
        file.read_to_end(bytes).unwrap();
    }
    output
}

/// As `run`, for what must succeed: its standard output.
fn ok(arguments: &[&str]) -> String {
    let output = run(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

/// As `run`, for what must be refused: its exit code and words.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(arguments);
    assert!(output.stdout.is_empty(), "a refusal is no data");
    (output.status.code(), String::from_utf8(output.stderr).expect("it prints UTF-8"))
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

fn produce(server: &str, more: &[&str]) -> Value {
    let fixed = ["produce", "--json", "--name-server", server, "--topic", "orders"];
    json_lines(&ok(&[&fixed[..], more].concat())).remove(0)
}

/// The messages and, last, the numbers.
fn consume(server: &str, count: &str) -> Vec<Value> {
    let fixed = ["consume", "--json", "--name-server", server, "--topic", "orders", "--count", count];
    json_lines(&ok(&fixed))
}

fn verify(data: &Path) -> (Option<i32>, Value) {
    let output = run(&["store", "verify", "--json", text(data)]);
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code(), report)
}

/// proves: S41
#[test]
fn a_server_says_where_and_how_it_serves_and_stops_cleanly_at_a_signal() {
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::standalone(folder.path(), "written");
        let line = &server.line;
        assert_eq!((&line["serves"], &line["durability"]), (&"standalone".into(), &"written".into()));
        assert_eq!((&line["cluster"], &line["broker_name"]), (&"DefaultCluster".into(), &"broker-a".into()));
        assert_eq!((&line["auth"], &line["tls"]), (&false.into(), &false.into()));
        assert!(line["broker"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert_eq!(line["data"].as_str().unwrap(), text(&folder.path().canonicalize().unwrap()));
        assert!(folder.path().join("abort").exists(), "open");

        assert_eq!(server.end(signal), Some(0));
        assert!(!folder.path().join("abort").exists(), "closed");
    }
}

/// Its line for people, with its free ports as `PORT`.
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
fn words_of(arguments: &[&str]) -> String {
    let mut command = Command::new(BIN);
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    let read = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
    child.kill().unwrap();
    child.wait().unwrap();
    read.unwrap();
    let mut parts = line.split("127.0.0.1:");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |all, part| {
        all + "127.0.0.1:PORT" + part.trim_start_matches(|character: char| character.is_ascii_digit())
    })
}

#[test]
fn the_line_of_the_start_tells_people_what_serves_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    let data = text(&path);
    let broker = ["--listen", "127.0.0.1:0", "--data", data, "--durability", "written"];
    let listen = ["--name-server-listen", "127.0.0.1:0"];
    assert_eq!(
        words_of(&[&["standalone"], &listen[..], &broker].concat()),
        format!(
            "staticfire standalone serves: name server at 127.0.0.1:PORT, broker broker-a of DefaultCluster at \
             127.0.0.1:PORT, durability written, data {data}, auth off, TLS off\n"
        )
    );
    assert_eq!(
        words_of(&[&["broker", "--name-server", "127.0.0.1:1"], &broker[..]].concat()),
        format!(
            "staticfire broker serves: broker broker-a of DefaultCluster at 127.0.0.1:PORT, name servers \
             127.0.0.1:PORT, durability written, data {data}, auth off, TLS off\n"
        )
    );
    assert_eq!(
        words_of(&["name-server", "--listen", "127.0.0.1:0"]),
        "staticfire name-server serves: name server at 127.0.0.1:PORT, auth off, TLS off\n"
    );
}

#[test]
fn a_configuration_file_is_taken_and_switches_go_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("f.toml"), folder.path().join("data"));
    let settings = "[broker]\nbroker-name = \"of-file\"\ncluster = \"of-file\"\nretention-hours = 1\n";
    std::fs::write(&file, settings).unwrap();
    let listen = ["--listen", "127.0.0.1:0", "--name-server-listen", "127.0.0.1:0", "--data", text(&data)];
    let more = ["--config", text(&file), "--cluster", "of-switch", "--retention-bytes", "1000000000"];
    let limit = ["--auto-create-topics", "0"];
    let server = Server::start(&[&["standalone"], &listen[..], &more, &limit].concat());
    let names = (&server.line["broker_name"], &server.line["cluster"]);
    assert_eq!(names, (&"of-file".into(), &"of-switch".into()));
    let send = ["produce", "--name-server", server.name_server(), "--topic", "orders", "--count", "1"];
    let output = run(&send);
    assert_eq!(output.status.code(), Some(1), "no topic may be made: {output:?}");
}

/// As RocketMQ's clients find name servers. What is said goes before what the environment says, and a lone broker
/// registers there, too.
#[test]
fn name_servers_are_a_list_and_come_from_the_environment_when_none_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("1"), folder.path().join("2"));
    let server = Server::standalone(&one, "written");
    let list = format!("127.0.0.1:1;{}", server.name_server());
    let send = ["produce", "--json", "--topic", "orders", "--count", "1"];
    assert!(run_among(&send, &list).status.success());
    assert!(run(&[&send[..], &["--name-server", &list]].concat()).status.success());
    assert!(
        run_among(&[&send[..], &["--name-server", server.name_server()]].concat(), "127.0.0.1:1")
            .status
            .success()
    );
    let status = ["admin", "status", "--json"];
    assert!(run_among(&status, server.name_server()).status.success());
    let wrong = run_among(&send, "nobody");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("NAMESRV_ADDR"), "{wrong:?}");

    let broker = ["broker", "--json", "--listen", "127.0.0.1:0", "--broker-name", "b", "--data", text(&two)];
    let mut broker =
        Command::new(BIN).args(broker).env(NAME_SERVERS, &list).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let read = BufReader::new(broker.stdout.take().unwrap()).read_line(&mut line);
    broker.kill().unwrap();
    broker.wait().unwrap();
    read.unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["name_servers"], serde_json::json!(["127.0.0.1:1", server.name_server()]));
}

/// Clients are told the address that they can dial, not the one that means all of this machine's.
#[test]
fn a_broker_that_listens_everywhere_is_found_where_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let tcp = Tcp::start(TcpOptions::default()).unwrap();
    let free = tcp.listen(([127, 0, 0, 1], 0).into(), Arc::new(NoService)).unwrap();
    let port = free.address().port();
    drop(free);
    let (everywhere, here) = (format!("0.0.0.0:{port}"), format!("127.0.0.1:{port}"));
    let listen = ["standalone", "--listen", &everywhere, "--name-server-listen", "127.0.0.1:0"];
    let open = ["--without-authentication", "--without-tls", "--data", text(folder.path())];
    let (code, words) = refused(&[&listen[..], &open].concat());
    assert!(code == Some(2) && words.contains("--advertise"), "{words}");
    let server = Server::start(&[&listen[..], &open, &["--advertise", &here]].concat());
    assert_eq!(server.line["broker"], here.as_str());
    produce(server.name_server(), &["--count", "3"]);
    assert_eq!(consume(server.name_server(), "3").len(), 4);
}

#[test]
fn a_whole_group_starts_with_one_command_and_says_what_each_node_recovered() {
    let folder = tempfile::tempdir().unwrap();
    let listen = ["--listen", "127.0.0.1:0", "--name-server-listen", "127.0.0.1:0", "--group", "3"];
    let store = ["--data", text(folder.path()), "--segment-bytes", "4194304"];
    let start = || Server::start(&[&["standalone"], &listen[..], &store].concat());
    let found = |server: &Server, node: usize| server.line["recovery"][node][0].as_str().unwrap().to_owned();
    let server = start();
    assert!(found(&server, 2).contains("0 records"), "{}", server.line);
    produce(server.name_server(), &["--count", "20"]);
    server.end("KILL");
    let server = start();
    for node in 0..3 {
        assert!(found(&server, node).contains("not closed properly"), "{}", server.line);
    }
    assert_eq!(consume(server.name_server(), "20").len(), 21);
}

#[test]
fn the_line_of_the_start_says_what_recovery_found() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::standalone(folder.path(), "written");
    let log = |server: &Server| server.line["recovery"][0].as_str().unwrap().to_owned();
    assert!(log(&server).contains(": closed properly, 0 records"), "{}", log(&server));
    produce(server.name_server(), &["--count", "20"]);
    server.end("KILL");
    let server = Server::standalone(folder.path(), "written");
    let found = log(&server);
    assert!(found.contains("not closed properly, 20 records"), "{found}");
}

/// An empty server is small, and takes its first message at once (printed: a machine that tests has other
/// things to do).
#[cfg(target_os = "linux")]
#[test]
fn an_empty_server_has_25_mib_of_its_own_at_most_and_is_soon_ready() {
    let folder = tempfile::tempdir().unwrap();
    let tcp = Tcp::start(TcpOptions::default()).unwrap();
    let start = tcp.now();
    let listen = ["--listen", "127.0.0.1:0", "--name-server-listen", "127.0.0.1:0"];
    let server = Server::start(&[&["standalone"], &listen[..], &["--data", text(folder.path())]].concat());
    let serves = tcp.now().since(start);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.split_whitespace().next());
    let anonymous: u64 = anonymous.expect("Linux says it").parse().unwrap();
    assert!(anonymous <= 25 << 10, "{anonymous} KiB of anonymous memory");
    send_one(&tcp, server.line["broker"].as_str().unwrap());
    let acknowledged = tcp.now().since(start);
    println!(
        "{anonymous} KiB anonymous; serves after {serves:?}, first send acknowledged after {acknowledged:?}"
    );
}

/// Who has another directory is another member of a broadcasting group.
#[test]
fn a_consumer_may_remember_in_a_directory_how_far_it_got() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::standalone(&folder.path().join("data"), "written");
    let at = server.name_server();
    produce(at, &["--count", "20"]);
    let consume = |offsets: &str, count: &str| {
        let offsets = folder.path().join(offsets);
        let fixed = ["consume", "--json", "--name-server", at, "--topic", "orders", "--count", count];
        let lines = json_lines(&ok(&[&fixed[..], &["--offsets", text(&offsets)]].concat()));
        let place = |line: &Value| {
            line["offset"].is_u64().then(|| (line["queue"].to_string(), line["offset"].to_string()))
        };
        lines.iter().filter_map(place).collect::<std::collections::BTreeSet<_>>()
    };
    let (first, second) = (consume("a", "12"), consume("a", "8"));
    assert_eq!((first.len(), second.len(), first.union(&second).count()), (12, 8, 20));
    assert_eq!(consume("b", "20").len(), 20);
    assert!(folder.path().join("a/staticfire-cli/offsets.json").exists());
}

#[test]
fn a_second_process_on_the_same_directory_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let _server = Server::standalone(folder.path(), "flushed");
    let data = text(folder.path());
    let (code, words) = refused(&["broker", "--listen", "127.0.0.1:0", "--data", data]);
    assert_eq!(code, Some(2));
    assert!(words.contains(data) && words.contains("open in another process"), "{words}");
}

#[test]
fn an_address_in_use_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::standalone(folder.path(), "flushed");
    let (code, words) = refused(&["name-server", "--listen", server.name_server()]);
    assert_eq!(code, Some(2));
    assert!(words.contains(server.name_server()), "{words}");
}

/// proves: B71
#[test]
fn an_unknown_key_is_refused_with_its_line_and_nothing_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let (config, data) = (folder.path().join("broker.toml"), folder.path().join("data"));
    std::fs::write(&config, format!("[broker]\ndata = {:?}\ndurabilty = \"flushed\"\n", text(&data)))
        .unwrap();
    let (code, words) = refused(&["standalone", "--config", text(&config)]);
    assert_eq!(code, Some(2));
    assert!(words.contains("broker.toml:3:1: unknown field `durabilty`"), "{words}");
    assert!(!data.exists());
}

/// proves: B31
#[test]
fn topics_that_differ_by_case_are_two() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::standalone(folder.path(), "written");
    let send = |topic: &str| {
        let fixed = ["produce", "--name-server", server.name_server(), "--topic", topic];
        run(&[&fixed[..], &["--body", topic]].concat()).status.success()
    };
    let told_apart = !folder.path().join("COMMITLOG").exists();
    assert_eq!((send("orders"), send("Orders")), (true, told_apart));
    assert_eq!(consume(server.name_server(), "1")[0]["body"], "orders");
    assert_eq!(server.end("TERM"), Some(0));
    let names: std::collections::BTreeSet<_> = std::fs::read_dir(folder.path().join("consumequeue"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!((names.contains("orders"), names.contains("Orders")), (true, told_apart), "{names:?}");
}

/// proves: B71: a file of any size is refused before it is read
#[test]
fn a_huge_configuration_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("broker.toml");
    std::fs::write(&config, "# a long story\n".repeat(7 << 20)).unwrap();
    let (code, words) = refused(&["standalone", "--config", text(&config)]);
    assert_eq!(code, Some(2));
    assert!(words.contains("broker.toml: not a file of at most 1048576 bytes"), "{words}");
}

/// proves: B72: a directory that is there and must not be written
#[test]
#[cfg(unix)]
fn a_data_directory_without_permission_is_named() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;

    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    for path in [&data, folder.path()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o555)).unwrap();
    }
    let mut command = Command::new(BIN);
    command.args(["broker", "--listen", "127.0.0.1:0", "--data", text(&data)]);
    if std::fs::metadata(folder.path()).unwrap().uid() == 0 {
        // Nothing is forbidden to root: be nobody.
        command.uid(65_534).gid(65_534);
    }
    let output = command.output();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = match output {
        Ok(output) => output,
        Err(error) => return eprintln!("nobody may not run {BIN}: {error}"),
    };
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains(text(&data)) && words.contains("ermission denied"), "{words}");
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
}

/// A log that lost its end to another leader: the records from the second message on.
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
fn cut_log(data: &Path) {
    let mut options = StoreOptions::at(data);
    (options.durability, options.segment_bytes) = (Durability::Confirmed, 1 << 20);
    let store = Store::open(options).unwrap();
    store.open_epoch().unwrap();
    let append = |body: &'static str| {
        let message = Message::new(TopicName::new("orders").unwrap(), QueueId(0), body);
        store.append(&message.with_property("KEYS", body)).unwrap().position().end
    };
    let kept = append("kept");
    append("first lost");
    append("second lost");
    store.confirm(Epoch(1), kept);
    store.fence(Epoch(7));
    store.truncate(kept).unwrap();
    store.close().unwrap();
}

/// proves: M34, I76
#[test]
fn what_was_cut_off_is_listed_shown_and_sent_once_more() {
    let folder = tempfile::tempdir().unwrap();
    cut_log(folder.path());
    let tail = ["store", "tail", "--orphans", text(folder.path())];
    let with = |more: &[&str]| ok(&[&tail[..], more].concat());
    let list = json_lines(&with(&["--json"]));
    assert_eq!((list.len(), &list[0]["epoch"], &list[0]["messages"]), (1, &7.into(), &2.into()), "{list:?}");
    assert_eq!((&list[0]["topics"]["orders"], &list[0]["reason"]), (&2.into(), &"diverged".into()));
    let people = with(&[]);
    assert!(
        people.contains("in epoch 7 because a newer leader") && people.contains("2 of orders"),
        "{people}"
    );
    let messages = json_lines(&with(&["--messages"]));
    let bodies: Vec<_> = messages.iter().map(|message| message["body"].as_str().unwrap()).collect();
    assert_eq!(bodies, ["first lost", "second lost"]);
    assert_eq!(messages[1]["properties"]["KEYS"], "second lost");

    let elsewhere = tempfile::tempdir().unwrap();
    let server = Server::standalone(elsewhere.path(), "flushed");
    assert_eq!(with(&["--send-to", server.name_server()]), "2 messages sent\n");
    let mut keys: Vec<_> = consume(server.name_server(), "2")[..2]
        .iter()
        .map(|message| (message["keys"].as_str().unwrap().to_owned(), message["body"].clone()))
        .collect();
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(keys[0], ("first lost".to_owned(), "first lost".into()));
    assert_eq!(keys[1].1, "second lost");

    let (code, words) = refused(&["store", "tail", "--orphans", text(&folder.path().join("config"))]);
    assert_eq!(code, Some(2), "{words}");
    assert_eq!(refused(&["store", "tail", text(folder.path())]).0, Some(2), "of the log itself: not there");
}

/// proves: B72
#[test]
#[cfg(unix)]
fn too_few_file_handles_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let serve =
        format!("ulimit -n 100; exec '{BIN}' standalone --data '{}'", text(&folder.path().join("data")));
    let output = Command::new("sh").args(["-c", &serve]).output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("may open 100 files") && words.contains("ulimit"), "{words}");
    assert!(!folder.path().join("data").exists());
}

/// proves: B72
#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let (code, words) = refused(&["broker", "--listen", "127.0.0.1:0", "--data", text(&file)]);
    assert_eq!(code, Some(2));
    assert!(words.contains(text(&file)), "{words}");
}

/// proves: S2
#[test]
fn leaving_loopback_is_refused_and_the_refusal_names_both_switches() {
    for command in ["standalone", "broker", "name-server"] {
        let (code, words) = refused(&[command, "--listen", "0.0.0.0:0", "--without-tls"]);
        assert_eq!(code, Some(2), "{words}");
        assert!(words.contains("--without-authentication") && !words.contains("--without-tls"), "{words}");
    }
}

#[test]
fn what_was_produced_is_consumed_and_a_group_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::standalone(folder.path(), "written");
    let at = server.name_server();
    let sent = produce(at, &["--count", "50", "--size", "100"]);
    assert_eq!((&sent["acknowledged"], &sent["failed"]), (&50.into(), &0.into()));
    let sent = produce(at, &["--body", "the last one", "--tag", "red", "--rate", "1000"]);
    assert_eq!(sent["acknowledged"], 1);
    assert_eq!(sent["latency_counted_from"], "intended send time");

    let (first, second) = (consume(at, "20"), consume(at, "31"));
    assert_eq!((&first[20]["consumed"], &second[31]["consumed"]), (&20.into(), &31.into()));
    let messages = || first[..20].iter().chain(&second[..31]);
    let mut keys: Vec<u32> = messages().map(|it| it["keys"].as_str().unwrap().parse().unwrap()).collect();
    keys.sort_unstable();
    let mut expected: Vec<u32> = (0..50).chain([0]).collect();
    expected.sort_unstable();
    assert_eq!(keys, expected, "each message once");
    let last = messages().find(|it| it["tag"] == "red").expect("the tagged one came");
    assert_eq!(last["body"], "the last one");

    produce(at, &["--count", "1", "--in-flight", "1"]);
    let alone = &consume(at, "1")[1];
    assert!(alone["seconds"].as_f64().unwrap() > 0.0, "time counts from the first poll: {alone}");
}

#[test]
fn a_consumer_ends_well_at_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::standalone(folder.path(), "written");
    let at = server.name_server();
    produce(at, &["--count", "1"]);
    let consumer = Server::start(&["consume", "--name-server", at, "--topic", "orders"]);
    assert_eq!(consumer.line["topic"], "orders", "its first line is the message");
    assert_eq!(consumer.end("INT"), Some(0));
}

#[test]
fn a_message_that_is_not_acknowledged_is_exit_code_1() {
    // Nothing listens on port 1.
    let output =
        run(&["produce", "--json", "--name-server", "127.0.0.1:1", "--topic", "orders", "--count", "1"]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("not acknowledged"), "{words}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["acknowledged"], &report["failed"]), (&0.into(), &1.into()));
}

#[test]
fn what_the_command_line_does_not_know_is_exit_code_2() {
    for arguments in [&["prodcue"][..], &["produce"], &["standalone", "--no-such-switch"]] {
        let (code, words) = refused(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {words}");
    }
}

#[test]
fn a_name_server_and_a_broker_serve_as_two_processes() {
    let folder = tempfile::tempdir().unwrap();
    let name_server = Server::start(&["name-server", "--listen", "127.0.0.1:0"]);
    // Hosts may be named.
    let at = &name_server.name_server().replace("127.0.0.1", "localhost");
    let data = text(folder.path());
    let broker = Server::start(&[
        "broker",
        "--listen",
        "127.0.0.1:0",
        "--data",
        data,
        "--name-server",
        at,
        "--broker-name",
        "b7",
    ]);
    produce(at, &["--count", "3"]);
    assert!(consume(at, "3")[..3].iter().all(|message| message["broker"] == "b7"));
    assert_eq!((broker.end("TERM"), name_server.end("TERM")), (Some(0), Some(0)));
}

/// proves: I1 on real files, for a killed process
#[test]
fn a_killed_server_leaves_a_sound_store_with_every_acknowledged_message() {
    for durability in ["written", "flushed"] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::standalone(folder.path(), durability);
        assert_eq!(produce(server.name_server(), &["--count", "300"])["acknowledged"], 300);
        assert_eq!(server.end("KILL"), None);

        let (code, report) = verify(folder.path());
        assert_eq!((code, &report["closed"]), (Some(0), &false.into()), "{report}");
        assert_eq!(report["records"], 300, "{report}");
        let server = Server::standalone(folder.path(), durability);
        assert_eq!(consume(server.name_server(), "300")[300]["consumed"], 300);
    }
}

#[test]
fn verify_names_the_damaged_byte_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::standalone(folder.path(), "flushed");
    produce(server.name_server(), &["--count", "10"]);
    server.end("TERM");
    let (code, report) = verify(folder.path());
    assert_eq!(
        (code, &report["sound"], &report["closed"]),
        (Some(0), &true.into(), &true.into()),
        "{report}"
    );

    let segment = folder.path().join("commitlog/00000000000000000000");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[500] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let (code, report) = verify(folder.path());
    assert_eq!((code, &report["sound"]), (Some(1), &false.into()));
    let finding = &report["findings"][0];
    assert_eq!(finding["file"], "commitlog/00000000000000000000", "{report}");
    assert!(finding["offset"].as_u64().unwrap() <= 500, "{report}");
    assert_eq!(std::fs::read(&segment).unwrap(), bytes);
}

#[test]
fn verify_of_something_else_could_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    assert_eq!(verify(&missing).0, Some(2));
    assert!(!missing.exists(), "it makes nothing");
    assert_eq!(verify(folder.path()).0, Some(2));
}

/// proves: B72
#[test]
#[cfg(target_os = "linux")]
fn a_server_takes_all_the_file_handles_it_may_have() {
    let server = Server::start(&["name-server", "--listen", "127.0.0.1:0"]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.child.id())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("the kernel tells");
    let mut numbers = line.split_whitespace();
    assert_eq!(numbers.next(), numbers.next(), "{line}");
}

#[test]
#[allow(clippy::disallowed_types, reason = "a client of HTTP, not of ours")]
fn metrics_are_there_for_prometheus_on_this_machine_only() {
    use std::io::{Read, Write};

    let folder = tempfile::tempdir().unwrap();
    let data = text(folder.path());
    let listen = ["--listen", "127.0.0.1:0", "--name-server-listen", "127.0.0.1:0", "--data", data];
    let start = |at| [&["standalone", "--metrics", at], &listen[..]].concat();
    let (code, words) = refused(&start("0.0.0.0:0"));
    assert_eq!(code, Some(2));
    assert!(words.contains("no loopback address"), "{words}");

    let server = Server::start(&start("127.0.0.1:0"));
    produce(server.name_server(), &["--count", "5"]);
    let at = server.line["metrics"].as_str().expect("it says where");
    let at = at.trim_start_matches("http://").trim_end_matches("/metrics");
    let get = |path: &str| {
        let mut stream = std::net::TcpStream::connect(at).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = get("/metrics");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let labels = "cluster=\"DefaultCluster\",broker=\"broker-a\",node=\"0\"";
    assert!(answer.contains(&format!("staticfire_messages_put_total{{{labels}}} 5\n")), "{answer}");
    assert!(answer.contains(&format!("staticfire_leads{{{labels}}} 1\n")), "{answer}");
    assert!(get("/").starts_with("HTTP/1.1 404"));
}
