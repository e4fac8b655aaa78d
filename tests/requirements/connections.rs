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

/// Nothing above knows which transport it is on: the same story on sockets and a real disk.
/// proves: M43, M45, M46, M47
#[test]
#[allow(clippy::disallowed_methods, reason = "outside of the runtime, only blocking waits")]
fn the_same_client_works_on_sockets() {
    let tcp = Tcp::start(TcpOptions::default()).expect("threads start");
    let free = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let (transport, runtime): (Arc<dyn Transport>, Arc<dyn Runtime>) =
        (Arc::new(tcp.clone()), Arc::new(tcp.clone()));
    let options = NameServerOptions { listen: free(0), ..NameServerOptions::default() };
    let names = NameServer::start(&tcp, Arc::clone(&runtime), options).expect("a free port");
    let directory = tempfile::tempdir().expect("a folder");
    let mut store = StoreOptions::at(directory.path());
    store.segment_bytes = 8 << 20;
    let options = BrokerOptions {
        listen: free(0),
        name_servers: vec![names.address().into()],
        ..BrokerOptions::default()
    };
    let broker = tcp.block_on(Broker::start(Arc::clone(&transport), Arc::clone(&runtime), options, store));
    let broker = broker.expect("a fresh store opens");
    let client = Client::new(transport, runtime, ClientOptions::new([names.address()]));
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
    tcp.block_on(broker.stop()).expect("a clean stop");
}
