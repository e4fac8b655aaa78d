//! What clients say to whom, and over how many connections.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use staticfire::broker::{Broker, BrokerOptions};
use staticfire::client::{
    Client, ClientError, ClientOptions, ConsumeResult, Producer, ProducerOptions, PullConsumer,
    PullConsumerOptions, PushConsumer, listener,
};
use staticfire::name_server::{NameServer, NameServerOptions};
use staticfire::protocol::codes::request as code;
use staticfire::protocol::names::GroupName;
use staticfire::sim::Node;
use staticfire::storage::StoreOptions;
use staticfire::transport::memory::Event;
use staticfire::transport::tcp::{Tcp, TcpOptions};
use staticfire::transport::{Runtime, Transport};

use crate::seen::{earliest, message, minute, numbered, requests, start};

fn group(name: &str) -> GroupName {
    GroupName::new(name).expect("a group's name")
}

/// Brokers know producers and consumers from their heartbeats, and forget them at their goodbye.
#[test]
fn clients_introduce_themselves_and_say_goodbye() {
    let cluster = start(64, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    cluster.wait(producer.send(message("orders", "m0"))).expect("stored");
    let first_frames: Vec<_> =
        cluster.requests_of(Node::Client(1)).into_iter().filter(|code| *code != 105).collect();
    assert_eq!(first_frames[..2], [code::HEART_BEAT, code::SEND_MESSAGE_V2]);
    cluster.network().clear_log();
    cluster.run_for(minute(2));
    assert_eq!(requests(&cluster, 1, code::HEART_BEAT), 4, "every 30 s");
    cluster.wait(producer.close());
    assert_eq!(requests(&cluster, 1, code::UNREGISTER_CLIENT), 1);
    assert_eq!(cluster.wait(producer.send(message("orders", "late"))), Err(ClientError::Closed));
}

/// One connection to each peer, however many tasks send at once.
#[test]
fn a_client_has_one_connection_to_each_peer() {
    let cluster = start(65, 1, 1);
    let producer = cluster.producer_with(1, ProducerOptions::default());
    let stored = Arc::new(AtomicUsize::new(0));
    for number in 0..50 {
        let stored = Arc::clone(&stored);
        let count = move |_| {
            stored.fetch_add(1, Ordering::Relaxed);
        };
        producer.send_with(message("orders", format!("m{number}")), count, |error| panic!("{error}"));
    }
    cluster.run_for(minute(10));
    assert_eq!(stored.load(Ordering::Relaxed), 50);
    let dialled: Vec<SocketAddr> = cluster
        .network()
        .log()
        .into_iter()
        .filter(|entry| entry.event == Event::Dialled && entry.host.ip() == Node::Client(1).ip())
        .map(|entry| entry.peer)
        .collect();
    assert_eq!(dialled.len(), 2, "{dialled:?}");
}

/// A name server and a broker on sockets and a real disk.
struct OnSockets {
    tcp: Tcp,
    names: NameServer,
    broker: Broker,
    _directory: tempfile::TempDir,
}

impl OnSockets {
    fn start() -> Self {
        let tcp = Tcp::start(TcpOptions::default()).expect("threads start");
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let (transport, runtime): (Arc<dyn Transport>, Arc<dyn Runtime>) =
            (Arc::new(tcp.clone()), Arc::new(tcp.clone()));
        let options = NameServerOptions { listen: free, ..NameServerOptions::default() };
        let names = NameServer::start(&tcp, Arc::clone(&runtime), options).expect("a free port");
        let directory = tempfile::tempdir().expect("a folder");
        let mut store = StoreOptions::at(directory.path());
        store.segment_bytes = 8 << 20;
        let name_servers = vec![names.address().into()];
        let options = BrokerOptions { listen: free, name_servers, ..BrokerOptions::default() };
        let broker = tcp.block_on(Broker::start(transport, runtime, options, store));
        let broker = broker.expect("a fresh store opens");
        Self { tcp, names, broker, _directory: directory }
    }

    fn client(&self) -> Client {
        let (transport, runtime) = (Arc::new(self.tcp.clone()), Arc::new(self.tcp.clone()));
        Client::new(transport, runtime, ClientOptions::new([self.names.address()]))
    }
}

/// Nothing above knows which transport it is on: the same story on sockets and a real disk.
/// proves: M43, M45, M46, M47
#[test]
#[allow(clippy::disallowed_methods, reason = "outside of the runtime, only blocking waits")]
fn the_same_client_works_on_sockets() {
    let on_sockets = OnSockets::start();
    let (tcp, client) = (&on_sockets.tcp, on_sockets.client());
    let producer = Producer::new(&client, group("producers"), ProducerOptions::default());
    let (arrived, received) = std::sync::mpsc::channel();
    let tell = listener(move |messages| {
        messages.iter().for_each(|message| drop(arrived.send(message.body().clone())));
        ConsumeResult::Consumed
    });
    tcp.block_on(async {
        producer.send(message("orders", "m0")).await.expect("stored");
        producer.send_batch(vec![message("orders", "m1"), message("orders", "m2")]).await.expect("stored");
        producer.send_one_way(message("orders", "m3")).expect("handed over");
    });
    let starting = PushConsumer::start(&client, group("pushed"), earliest(), [("orders", "*")], tell);
    let consumer = tcp.block_on(starting).expect("names and expressions are right");
    let limit = Duration::from_secs(10);
    let next = || received.recv_timeout(limit).expect("in time");
    let bodies: BTreeSet<_> = (0..4).map(|_| String::from_utf8_lossy(&next()).into_owned()).collect();
    assert_eq!(bodies, numbered(4));
    let mut puller =
        PullConsumer::new(&client, group("pullers"), PullConsumerOptions::default()).expect("an expression");
    tcp.block_on(async {
        consumer.close(Duration::from_secs(1)).await;
        let queues = puller.queues("orders").await.expect("queues");
        puller.assign(queues).await.expect("offsets");
        let mut pulled = 0;
        while pulled < 4 {
            pulled += puller.poll(limit).await.expect("messages").len();
        }
        puller.close().await;
        producer.close().await;
    });
    client.close();
    tcp.block_on(on_sockets.broker.stop()).expect("a clean stop");
}

/// Two members on sockets share the queues; when one leaves, the other has all.
/// proves: M47
#[test]
fn members_on_sockets_divide_the_queues_anew() {
    let on_sockets = OnSockets::start();
    let tcp = &on_sockets.tcp;
    let producer = Producer::new(&on_sockets.client(), group("producers"), ProducerOptions::default());
    tcp.block_on(producer.send(message("orders", "first"))).expect("stored");
    let member = || {
        let tell = listener(|_| ConsumeResult::Consumed);
        let client = on_sockets.client();
        let starting = PushConsumer::start(&client, group("pushed"), earliest(), [("orders", "*")], tell);
        tcp.block_on(starting).expect("names and expressions are right")
    };
    let queues = |member: &PushConsumer| -> BTreeSet<_> {
        member.queues().into_iter().filter(|queue| queue.topic == "orders").collect()
    };
    let soon = |what: &str, reached: &dyn Fn() -> bool| {
        let until = tcp.now() + Duration::from_secs(10);
        while !reached() {
            assert!(tcp.now() < until, "{what}");
            tcp.block_on(tcp.sleep(Duration::from_millis(10)));
        }
    };
    let first = member();
    soon("one member has all", &|| queues(&first).len() == 4);
    let all = queues(&first);
    let second = member();
    soon("two members have two each", &|| (queues(&first).len(), queues(&second).len()) == (2, 2));
    assert_eq!(queues(&first).union(&queues(&second)).cloned().collect::<BTreeSet<_>>(), all);
    tcp.block_on(second.close(Duration::from_secs(1)));
    soon("one member has all again", &|| queues(&first) == all);
    tcp.block_on(first.close(Duration::from_secs(1)));
}
