//! A relay for one direction of asking between two nodes: what one asks and the other answers goes through
//! here, late, with losses, or one way only.
//!
//! A byte stream loses nothing, so what a lost packet means to it is what is done: everything behind it waits
//! until it is sent again.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a piece of network between real processes: sockets, threads and time are what it is made of"
)]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// After this time TCP sends again what nobody confirmed.
const SENT_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How often it is looked whether a way is open again.
const LOOK: Duration = Duration::from_millis(5);

/// The weather on all ways out of one node.
#[derive(Debug, Default)]
pub struct Weather {
    /// How long a packet travels at least, in ms.
    pub delay_ms: AtomicU32,
    /// How much longer it may travel, in ms.
    pub jitter_ms: AtomicU32,
    /// Lost packets in a thousand.
    pub lost: AtomicU32,
    /// A bit for each node, counted from 0, to which nothing gets through.
    pub cut: AtomicU32,
    draws: AtomicU64,
}

impl Weather {
    /// When a packet that leaves now arrives.
    fn arrival(&self) -> Instant {
        let draw = splitmix(self.draws.fetch_add(1, Ordering::Relaxed));
        let us = |ms: &AtomicU32| u64::from(ms.load(Ordering::Relaxed)) * 1000;
        let delay = us(&self.delay_ms) + (((draw >> 32) * us(&self.jitter_ms)) >> 32);
        let is_lost = draw % 1000 < u64::from(self.lost.load(Ordering::Relaxed));
        Instant::now()
            + Duration::from_micros(delay)
            + if is_lost { SENT_AGAIN_AFTER } else { Duration::ZERO }
    }
}

/// A number that looks random (`SplitMix64`).
#[must_use]
pub const fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// One way: into which weather, to whom.
#[derive(Clone)]
struct Way {
    weather: Arc<Weather>,
    to: usize,
}

impl Way {
    fn wait_while_cut(&self) {
        while self.weather.cut.load(Ordering::Relaxed) & 1 << self.to != 0 {
            thread::sleep(LOOK);
        }
    }
}

/// Relays to `address`, the node `to`, what the node `from` asks at the address returned, in the network
/// namespace of the calling thread.
///
/// # Errors
/// The system's.
pub fn relay(
    from: usize,
    to: usize,
    address: SocketAddr,
    weather: &[Arc<Weather>],
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let at = listener.local_addr()?;
    let (out, back) = (
        Way { weather: Arc::clone(&weather[from]), to },
        Way { weather: Arc::clone(&weather[to]), to: from },
    );
    thread::spawn(move || {
        for asking in listener.incoming().map_while(Result::ok) {
            let (out, back) = (out.clone(), back.clone());
            thread::spawn(move || connect(asking, address, out, back));
        }
    });
    Ok(at)
}

fn connect(asking: TcpStream, to: SocketAddr, out: Way, back: Way) -> io::Result<()> {
    out.wait_while_cut();
    back.wait_while_cut();
    let answering = TcpStream::connect(to)?;
    for stream in [&asking, &answering] {
        stream.set_nodelay(true)?;
    }
    carry(asking.try_clone()?, answering.try_clone()?, out);
    carry(answering, asking, back);
    Ok(())
}

/// Carries what `from` says to `into`.
fn carry(from: TcpStream, into: TcpStream, way: Way) {
    let (give, take) = sync_channel(256);
    let weather = Arc::clone(&way.weather);
    thread::spawn(move || read(from, &give, &weather));
    thread::spawn(move || write(into, &take, &way));
}

fn read(mut from: TcpStream, give: &SyncSender<(Instant, Vec<u8>)>, weather: &Weather) {
    let mut buffer = vec![0; 64 << 10];
    // The end travels as an empty packet.
    loop {
        let len = from.read(&mut buffer).unwrap_or(0);
        if give.send((weather.arrival(), buffer[..len].to_vec())).is_err() || len == 0 {
            break;
        }
    }
    // Whoever can no longer be written to is not listened to either.
    let _ = from.shutdown(Shutdown::Read);
}

fn write(mut into: TcpStream, take: &Receiver<(Instant, Vec<u8>)>, way: &Way) {
    for (due, packet) in take {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        way.wait_while_cut();
        if packet.is_empty() || into.write_all(&packet).is_err() {
            break;
        }
    }
    let _ = into.shutdown(Shutdown::Both);
}
