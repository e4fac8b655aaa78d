//! What a pull is answered with, before any socket sees it: the mapped log itself.

#![allow(clippy::disallowed_methods, reason = "the system says what is mapped where")]

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use staticfire::broker::{Broker, BrokerOptions};
use staticfire::storage::{Durability, StoreOptions};
use staticfire::transport::tcp::{Tcp, TcpOptions};
use staticfire::transport::{
    BoxFuture, Call, Command, Connection, ConnectionEnd, ConnectionId, Listener, SendError, Service,
    Transport,
};

use crate::tools::create;
use crate::world::{pull, send};

/// Keeps the service that is listened for, so that a test can be its transport.
#[derive(Debug)]
struct Tapped {
    tcp: Tcp,
    service: Mutex<Option<Kept>>,
}

struct Kept(Arc<dyn Service>);

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

impl Transport for Tapped {
    fn listen(&self, at: SocketAddr, service: Arc<dyn Service>) -> io::Result<Listener> {
        *self.service.lock().unwrap() = Some(Kept(Arc::clone(&service)));
        self.tcp.listen(at, service)
    }

    fn connect(
        &self,
        to: SocketAddr,
        service: Arc<dyn Service>,
    ) -> BoxFuture<'static, io::Result<Connection>> {
        self.tcp.connect(to, service)
    }
}

/// A connection that keeps the frames instead of writing them.
#[derive(Debug, Default)]
struct Sent(Mutex<Vec<Command>>);

impl ConnectionEnd for Sent {
    fn id(&self) -> ConnectionId {
        ConnectionId(u64::MAX)
    }

    fn local(&self) -> SocketAddr {
        ([127, 0, 0, 1], 1).into()
    }

    fn peer(&self) -> SocketAddr {
        ([127, 0, 0, 1], 2).into()
    }

    fn send(&self, command: Command) -> Result<(), SendError> {
        self.0.lock().unwrap().push(command);
        Ok(())
    }

    fn send_all(&self, commands: &mut Vec<Command>) -> Result<(), SendError> {
        self.0.lock().unwrap().append(commands);
        Ok(())
    }

    fn call(&self, _request: Command, _limit: Duration) -> Call {
        Call::new(pending())
    }

    fn close(&self) {}

    fn is_open(&self) -> bool {
        true
    }
}

/// proves: C2: every slice of the answer is the record in the log's mapping, not a copy of it
#[test]
fn a_pull_is_answered_with_slices_of_the_mapped_log() {
    let folder = tempfile::tempdir().unwrap();
    let tcp = Tcp::start(TcpOptions::default()).unwrap();
    let host = Arc::new(Tapped { tcp: tcp.clone(), service: Mutex::default() });
    let listen = "127.0.0.1:0".parse().unwrap();
    let mut store = StoreOptions::at(folder.path());
    store.durability = Durability::Written;
    store.segment_bytes = 1 << 20;
    let options = BrokerOptions { listen, ..BrokerOptions::default() };
    let started = tcp.block_on(Broker::start(host.clone(), Arc::new(tcp.clone()), options, store));
    let broker = started.unwrap();
    let Kept(service) = host.service.lock().unwrap().take().unwrap();
    let end = Arc::new(Sent::default());
    let connection = Connection::new(Arc::clone(&end) as Arc<dyn ConnectionEnd>);
    let ask = |request: Command| {
        service.turn(&connection, &mut vec![request]);
        end.0.lock().unwrap().pop()
    };
    let producer = tcp.block_on(tcp.connect(broker.address(), Arc::clone(&service))).unwrap();
    let said = |request| tcp.block_on(producer.call(request, Duration::from_secs(30))).unwrap().code;
    assert_eq!(said(create("orders", 1)), 0);
    for body in ["first", "second", "third"] {
        assert_eq!(said(send("orders", 0, body)), 0);
    }
    let answer = ask(pull("orders", 0, 0, "*", 0)).expect("an answer in the turn");
    let store = broker.store();
    let records = store.queue("orders", staticfire::storage::QueueId(0)).unwrap();
    let records = records.read(staticfire::storage::QueueOffset(0), 3).unwrap();
    let stored: Vec<_> = records.iter().map(|record| record.bytes().as_ptr_range()).collect();
    let answered: Vec<_> = answer.body.slices().iter().map(|slice| slice.as_ptr_range()).collect();
    assert_eq!(answered, stored);
    if cfg!(target_os = "linux") {
        let mapped = mappings_of("commitlog");
        for slice in answered {
            let inside =
                |mapped: &Range<usize>| mapped.start <= slice.start.addr() && slice.end.addr() <= mapped.end;
            assert!(mapped.iter().any(inside), "{slice:?} lies in none of {mapped:x?}");
        }
    }
    tcp.block_on(broker.stop()).unwrap();
}

/// Where files with `folder` in their path are mapped in this process.
fn mappings_of(folder: &str) -> Vec<Range<usize>> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let range = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    };
    maps.lines().filter(|line| line.contains(folder)).filter_map(range).collect()
}
