//! How fast frames go through the TCP transport: an echo service and a closed-loop load on it.
//!
//! ```text
//! echo_load server [address]                                 serves until killed
//! echo_load client address [connections] [in flight] [bytes] [seconds]
//! echo_load                                                  both, 16 connections x 16 in flight
//! echo_load codec                                            decoding and encoding alone
//! echo_load simulated                                        three clients in virtual time
//! ```
//! Counting the server's system calls: `strace -c -f -p $(pidof echo_load)`.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use staticfire_transport::frame::encode_header;
use staticfire_transport::memory::Network;
use staticfire_transport::tcp::{Tcp, TcpOptions};
use staticfire_transport::{
    BoxFuture, Command, Connection, FrameDecoder, HeaderEncoding, Runtime, Service, Transport,
};

type Failure = Box<dyn std::error::Error>;

const LIMIT: Duration = Duration::from_secs(3);

/// Answers every request as a broker answers a send.
struct Echo;

impl Service for Echo {
    fn turn(&self, connection: &Connection, requests: &mut Vec<Command>) {
        for request in requests.drain(..) {
            let answer = request.answer(0).with_ext("msgId", "7F00000100002A9F0000000000001000");
            // A closed connection needs no answers.
            let _ = connection.send(answer.with_ext("queueId", 2).with_ext("queueOffset", 5));
        }
    }
}

struct Load {
    connections: usize,
    in_flight: usize,
    bytes: usize,
    time: Duration,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: usize| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let load = || -> Result<Load, Failure> {
        Ok(Load {
            connections: number(2, 16)?,
            in_flight: number(3, 16)?,
            bytes: number(4, 1024)?,
            time: Duration::from_secs(number(5, 5)? as u64),
        })
    };
    match arguments.first().map(String::as_str) {
        Some("server") => {
            let at = arguments.get(1).map_or("127.0.0.1:10911", String::as_str).parse()?;
            let tcp = Tcp::start(TcpOptions::default())?;
            let listener = tcp.listen(at, Arc::new(Echo))?;
            println!("echo on {}", listener.address());
            tcp.block_on(std::future::pending::<()>());
            Ok(())
        }
        Some("codec") => codec(),
        Some("simulated") => simulated(),
        Some("client") => client(arguments.get(1).ok_or("which address?")?.parse()?, &load()?),
        _ => {
            let server = Tcp::start(TcpOptions::default())?;
            let listener = server.listen("127.0.0.1:0".parse()?, Arc::new(Echo))?;
            client(listener.address(), &load()?)
        }
    }
}

fn client(to: SocketAddr, load: &Load) -> Result<(), Failure> {
    let tcp = Tcp::start(TcpOptions::default())?;
    let answers = Arc::new(AtomicU64::new(0));
    let body = bytes::Bytes::from(vec![b'x'; load.bytes]);
    for _ in 0..load.connections {
        let connection = tcp.block_on(tcp.connect(to, Arc::new(Echo)))?;
        for _ in 0..load.in_flight {
            tcp.spawn(caller(connection.clone(), body.clone(), Arc::clone(&answers)));
        }
    }
    // Warm: buffers have their sizes, files their descriptors.
    tcp.block_on(tcp.sleep(Duration::from_secs(1)));
    let (from, started) = (answers.load(Ordering::Relaxed), tcp.now());
    tcp.block_on(tcp.sleep(load.time));
    let (count, took) = (answers.load(Ordering::Relaxed) - from, tcp.now().since(started));
    println!(
        "{} connections x {} in flight, {} bytes: {:.0} requests/s",
        load.connections,
        load.in_flight,
        load.bytes,
        count as f64 / took.as_secs_f64()
    );
    Ok(())
}

fn caller(connection: Connection, body: bytes::Bytes, answers: Arc<AtomicU64>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let request = send_request().with_body(body);
        while connection.call(request.clone(), LIMIT).await.is_ok() {
            answers.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// A virtual minute of three clients with 300 requests per second each.
fn simulated() -> Result<(), Failure> {
    let network = Network::seeded(1);
    let server = network.host([10, 0, 0, 1].into());
    let at = SocketAddr::from(([10, 0, 0, 1], 10911));
    let _listener = server.listen(at, Arc::new(Echo))?;
    let answers = Arc::new(AtomicU64::new(0));
    for last in 2..5 {
        let host = network.host([10, 0, 0, last].into());
        let answers = Arc::clone(&answers);
        host.clone().spawn(Box::pin(async move {
            let Ok(connection) = host.connect(at, Arc::new(Echo)).await else { return };
            let request = send_request().with_body(vec![b'x'; 1024]);
            while connection.call(request.clone(), LIMIT).await.is_ok() {
                answers.fetch_add(1, Ordering::Relaxed);
                host.sleep(Duration::from_micros(2700)).await;
            }
        }));
    }
    let started = processor_time()?;
    network.run_for(Duration::from_secs(60));
    let took = (processor_time()? - started) as f64;
    let count = answers.load(Ordering::Relaxed);
    println!(
        "{count} requests in 60 virtual seconds: {:.0} times real time, {:.0} ns a request, {} steps, trace {:016x}",
        60e9 / took,
        took / count as f64,
        network.steps(),
        network.trace()
    );
    Ok(())
}

/// Nanoseconds this thread has spent on a processor, as Linux counts them.
#[allow(clippy::disallowed_methods, reason = "the system counts in a file")]
fn processor_time() -> Result<u64, Failure> {
    let counts = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(counts.split_whitespace().next().ok_or("an empty schedstat")?.parse()?)
}

/// Nanoseconds for the frames of a send and its answer, in both header encodings.
fn codec() -> Result<(), Failure> {
    const ROUNDS: u32 = 1_000_000;
    let time = |run: &mut dyn FnMut() -> Result<(), Failure>| -> Result<f64, Failure> {
        let started = processor_time()?;
        for _ in 0..ROUNDS {
            run()?;
        }
        Ok((processor_time()? - started) as f64 / f64::from(ROUNDS))
    };
    for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
        let mut request = send_request().with_body("hello");
        request.encoding = encoding;
        let answer = request.answer(0).with_ext("queueId", 2).with_ext("queueOffset", 5);
        let mut frame = Vec::new();
        encode_header(&request, &mut frame)?;
        frame.extend_from_slice(b"hello");
        let mut decoder = FrameDecoder::new();
        let decode = time(&mut || {
            decoder.push(&frame);
            black_box(decoder.next()?.ok_or("a whole frame")?);
            Ok(())
        })?;
        let mut out = Vec::new();
        let mut encode = |command: &Command| {
            time(&mut || {
                out.clear();
                black_box(encode_header(command, &mut out)?);
                Ok(())
            })
        };
        println!(
            "{encoding:?}: decode a send {decode:.0} ns, encode it {:.0} ns, encode an answer {:.0} ns",
            encode(&request)?,
            encode(&answer)?
        );
    }
    Ok(())
}

/// The fields of a send as the Java client writes them.
fn send_request() -> Command {
    let properties = "UNIQ_KEY\u{1}7F000001000100000000000000000000\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagA\u{2}";
    [
        ("a", "PG"),
        ("b", "TopicTest"),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "2"),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        ("i", properties),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
        ("n", "broker-a"),
    ]
    .into_iter()
    .fold(Command::request(310), |request, (name, value)| request.with_ext(name, value))
}
