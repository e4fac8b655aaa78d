//! What needs real threads: a pull that is parked while its message arrives on another one.

use std::sync::Arc;
use std::time::Duration;

use staticfire::broker::{Broker, BrokerOptions};
use staticfire::storage::{Durability, StoreOptions};
use staticfire::transport::tcp::{Tcp, TcpOptions};
use staticfire::transport::{Command, Connection, Service, Transport};

use crate::tools::create;
use crate::world::{number, pull, send};

/// Rounds by default; `STATICFIRE_CASES` multiplies them.
const ROUNDS: i64 = 600;
/// Pulls that are on their way at a time, each on a queue of its own.
const QUEUES: i32 = 64;
/// A woken pull is answered in well under a millisecond; a lost wake-up shows at the sweep, 5 s on.
const SOON: Duration = Duration::from_secs(3);

struct Nobody;

impl Service for Nobody {
    fn turn(&self, _connection: &Connection, requests: &mut Vec<Command>) {
        requests.clear();
    }
}

/// Consumer and producer are served by different threads. In every round a message for each queue
/// is sent while the pulls are on their way, another number of them ahead of it each time, so that
/// parking and arrival meet in every order. Without the second look after parking this fails.
///
/// proves: I70, Z41
#[test]
fn no_wake_up_is_lost_between_threads() {
    let cases: i64 = std::env::var("STATICFIRE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let folder = tempfile::tempdir().unwrap();
    let mut options = TcpOptions::default();
    options.threads = 3;
    let tcp = Tcp::start(options).unwrap();
    let host = Arc::new(tcp.clone());
    let listen = "127.0.0.1:0".parse().unwrap();
    let options = BrokerOptions { listen, ..BrokerOptions::default() };
    let mut store = StoreOptions::at(folder.path());
    store.durability = Durability::Written;
    store.segment_bytes = 64 << 20;
    let broker = tcp.block_on(Broker::start(host.clone(), host, options, store)).unwrap();
    let connect = || tcp.block_on(tcp.connect(broker.address(), Arc::new(Nobody))).unwrap();
    let (producer, consumer) = (connect(), connect());
    tcp.block_on(producer.call(create("orders", QUEUES), SOON)).unwrap();
    for round in 0..ROUNDS * cases {
        let mut sent = Vec::new();
        let mut held = Vec::new();
        for queue in 0..QUEUES {
            if i64::from(queue) == round % i64::from(QUEUES) {
                sent.extend((0..QUEUES).map(|queue| producer.call(send("orders", queue, "x"), SOON)));
            }
            held.push(consumer.call(pull("orders", queue, round, "*", 15), SOON));
        }
        for call in sent {
            assert_eq!(tcp.block_on(call).unwrap().code, 0);
        }
        for (queue, call) in held.into_iter().enumerate() {
            let found = tcp.block_on(call).unwrap_or_else(|error| panic!("{round}, queue {queue}: {error}"));
            assert_eq!((found.code, number(&found, "nextBeginOffset")), (0, round + 1));
        }
    }
    tcp.block_on(broker.stop()).unwrap();
}
