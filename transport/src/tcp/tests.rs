#![expect(clippy::disallowed_types, reason = "peers without our transport")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::{CloseReason, Command, FrameDecoder};

const LONG: Duration = Duration::from_secs(20);

/// Echoes, and tells how connections end and on which thread turns run.
struct Echo {
    closed: Mutex<Sender<CloseReason>>,
    threads: Mutex<Vec<String>>,
}

impl Echo {
    fn new() -> (Arc<Self>, Receiver<CloseReason>) {
        let (closed, reasons) = channel();
        (Arc::new(Self { closed: Mutex::new(closed), threads: Mutex::default() }), reasons)
    }
}

impl Service for Echo {
    fn turn(&self, connection: &Connection, requests: &mut Vec<Command>) {
        self.threads.lock().unwrap().push(thread::current().name().unwrap_or_default().to_owned());
        for request in requests.drain(..) {
            let _ = connection.send(request.answer(0).with_body(request.body.clone()));
        }
    }

    fn closed(&self, _connection: &Connection, reason: &CloseReason) {
        let _ = self.closed.lock().unwrap().send(reason.clone());
    }
}

struct Served {
    tcp: Tcp,
    echo: Arc<Echo>,
    closed: Receiver<CloseReason>,
    listener: Listener,
}

fn served(options: TcpOptions) -> Served {
    let tcp = Tcp::start(options).unwrap();
    let (echo, closed) = Echo::new();
    let listener = tcp.listen(([127, 0, 0, 1], 0).into(), Arc::clone(&echo) as Arc<_>).unwrap();
    Served { tcp, echo, closed, listener }
}

impl Served {
    fn dial(&self) -> TcpStream {
        let stream = TcpStream::connect(self.listener.address()).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }
}

fn frame(command: &Command) -> Vec<u8> {
    let mut bytes = Vec::new();
    crate::frame::encode_header(command, &mut bytes).unwrap();
    bytes.extend_from_slice(&command.body.to_bytes());
    bytes
}

/// The body of the next answer; `None` at the end of the stream.
fn answer(stream: &mut TcpStream) -> Option<bytes::Bytes> {
    let (mut decoder, mut byte) = (FrameDecoder::new(), [0]);
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) => decoder.push(&byte),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("neither an answer nor the end: {error}"),
        }
        if let Some(answer) = decoder.next().unwrap() {
            return Some(answer.body.to_bytes());
        }
    }
}

/// proves: B8
#[test]
fn more_connections_than_allowed_are_closed_and_the_places_are_given_back() {
    let served = served(TcpOptions { connections_per_address_max: 3, ..TcpOptions::default() });
    let hello = frame(&Command::request(1).with_body("hello"));
    let mut admitted: Vec<TcpStream> = (0..3).map(|_| served.dial()).collect();
    for stream in &mut admitted {
        stream.write_all(&hello).unwrap();
        assert_eq!(answer(stream).unwrap(), "hello");
    }
    assert_eq!(answer(&mut served.dial()), None, "the fourth is closed");
    assert_eq!(served.tcp.accepted_connections(), 3);
    admitted.pop();
    assert_eq!(served.closed.recv_timeout(LONG), Ok(CloseReason::Peer));
    // A place is free as soon as the service has heard of it.
    let mut next = served.dial();
    next.write_all(&hello).unwrap();
    assert_eq!(answer(&mut next).unwrap(), "hello");
}

/// proves: B8
#[test]
fn more_connections_than_allowed_in_total_are_closed() {
    let served = served(TcpOptions { connections_max: 2, ..TcpOptions::default() });
    let hello = frame(&Command::request(1).with_body("hello"));
    let mut admitted = [served.dial(), served.dial()];
    for stream in &mut admitted {
        stream.write_all(&hello).unwrap();
        assert_eq!(answer(stream).unwrap(), "hello");
    }
    assert_eq!(answer(&mut served.dial()), None);
}

/// proves: B8
#[test]
fn a_storm_of_connections_leaves_nothing_behind() {
    let served = served(TcpOptions { connections_max: 50, ..TcpOptions::default() });
    for _ in 0..300 {
        drop(served.dial());
    }
    let mut stream = served.dial();
    while {
        let _ = stream.write_all(&frame(&Command::request(1).with_body("after")));
        answer(&mut stream).is_none()
    } {
        stream = served.dial();
    }
    drop(stream);
    while served.tcp.accepted_connections() > 0 {
        served.closed.recv_timeout(LONG).unwrap();
    }
}

/// proves: B8
///
/// Silent ones, and ones that began a frame; somebody else asks on.
#[test]
fn thousands_of_idle_connections_disturb_nobody() {
    let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    files.current = files.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, files).unwrap();
    let served = served(TcpOptions { connections_per_address_max: 3_000, ..TcpOptions::default() });
    let (mut asking, hello) = (served.dial(), frame(&Command::request(1).with_body("hello")));
    let idle: Vec<TcpStream> = (0..2_000)
        .map(|at| {
            let mut stream = served.dial();
            stream.write_all(&hello[..[0, 2, 20][at % 3]]).unwrap();
            stream
        })
        .collect();
    for _ in 0..100 {
        asking.write_all(&hello).unwrap();
        assert_eq!(answer(&mut asking).unwrap(), "hello");
    }
    drop(idle);
    for _ in 0..2_000 {
        served.closed.recv_timeout(LONG).unwrap();
    }
    assert_eq!(served.tcp.accepted_connections(), 1);
}

/// proves: B9
///
/// What was asked before the peer stopped sending is answered, then both directions close.
#[test]
fn a_half_closed_peer_gets_its_answer_and_is_closed() {
    let served = served(TcpOptions::default());
    let mut stream = served.dial();
    stream.write_all(&frame(&Command::request(1).with_body("last words"))).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(answer(&mut stream).unwrap(), "last words");
    assert_eq!(answer(&mut stream), None);
    assert_eq!(served.closed.recv_timeout(LONG), Ok(CloseReason::Peer));
    assert_eq!(served.tcp.accepted_connections(), 0);
}

/// proves: B9
///
/// A peer that hears nothing any more, and asks on: it is read no more, and closed.
#[test]
fn a_peer_that_closed_its_ears_and_goes_on_sending_is_closed() {
    let limits = Limits {
        idle: Duration::from_millis(300),
        unsent_bytes: 4 << 20,
        unsent_answer_bytes: 1 << 20,
        ..Limits::default()
    };
    let served = served(TcpOptions { limits, ..TcpOptions::default() });
    let mut stream = served.dial();
    stream.shutdown(Shutdown::Read).unwrap();
    stream.set_write_timeout(Some(LONG)).unwrap();
    let request = frame(&Command::request(1).with_body(vec![0; 256 << 10]));
    let sent = (0..1_000).take_while(|_| stream.write_all(&request).is_ok()).count();
    assert!(sent < 200, "{} MiB were taken, and nothing heard", sent / 4);
    let reason = served.closed.recv_timeout(LONG).unwrap();
    assert!(matches!(reason, CloseReason::Backlog | CloseReason::Io(_)), "{reason:?}");
    assert_eq!(served.tcp.accepted_connections(), 0);
}

/// proves: B11
#[test]
fn one_byte_at_a_time_is_a_frame_all_the_same() {
    let served = served(TcpOptions::default());
    let mut stream = served.dial();
    let drops = "drop by drop ".repeat(1_000);
    for byte in frame(&Command::request(1).with_body(drops.clone())) {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(answer(&mut stream).unwrap(), drops);
}

#[test]
fn turns_run_on_the_thread_of_the_network() {
    let served = served(TcpOptions::default());
    let mut stream = served.dial();
    stream.write_all(&frame(&Command::request(1))).unwrap();
    answer(&mut stream).unwrap();
    assert_eq!(*served.echo.threads.lock().unwrap(), ["staticfire-net"]);
}

#[test]
fn stopping_closes_every_connection_and_fails_its_calls() {
    let served = served(TcpOptions::default());
    let client = Tcp::start(TcpOptions::default()).unwrap();
    let connect = client.connect(served.listener.address(), Echo::new().0);
    let connection = client.block_on(connect).unwrap();
    let call = connection.call(Command::request(1), LONG);
    client.stop();
    let gone = served.tcp.block_on(call);
    assert!(gone.is_ok() || gone == Err(crate::CallError::Closed), "{gone:?}");
    assert!(!connection.is_open());
    // The system resets a connection whose last answer nobody read.
    let reason = served.closed.recv_timeout(LONG).unwrap();
    assert!(
        matches!(reason, CloseReason::Peer | CloseReason::Io(io::ErrorKind::ConnectionReset)),
        "{reason:?}"
    );
    let mut sleep = client.sleep(Duration::ZERO);
    assert!(sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "time has ended");
    let connect = client.connect(served.listener.address(), Echo::new().0);
    assert_eq!(client.block_on(connect).unwrap_err().kind(), io::ErrorKind::NotConnected);
}

#[test]
fn clocks_sleeps_and_random_numbers_are_real() {
    let tcp = Tcp::start(TcpOptions::default()).unwrap();
    let started = tcp.now();
    tcp.block_on(tcp.sleep(Duration::from_millis(5)));
    assert!(tcp.now().since(started) >= Duration::from_millis(5));
    assert!(tcp.wall_ms() > 1_700_000_000_000);
    assert_ne!(tcp.random(), tcp.random());
    drop(tcp.sleep(Duration::MAX));
    let (told, heard) = channel();
    tcp.spawn(Box::pin(async move {
        let _ = told.send(thread::current().name().map(str::to_owned));
    }));
    assert_eq!(heard.recv_timeout(LONG), Ok(Some("staticfire-net".to_owned())));
}
