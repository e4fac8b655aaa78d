//! Brokers whose leader the operator chooses.

use std::sync::{Arc, Mutex};

use staticfire::broker::Broker;
use staticfire::protocol::codes::response;
use staticfire::replication::{Failover, Mode, NodeId, Role};
use staticfire::sim::{Ledger, Node, Promise, Running};

use crate::world::{
    TOPIC, cluster, group_options, leader, manual, ms, node, pull, registered, send, started, stored,
};

pub type Chosen = Arc<Mutex<[Failover; 3]>>;

/// A group whose nodes become, at their next start, what the operator has chosen by then.
pub fn chosen(seed: u64, mode: Mode) -> (Running, Chosen) {
    let chosen = Arc::new(Mutex::new([Failover::Master { generation: 1 }, Failover::Slave, Failover::Slave]));
    let now = Arc::clone(&chosen);
    let cluster = cluster(seed, |_| Failover::Slave, mode).broker_options(move |node, options| {
        let Node::Broker { group, id } = node else { return };
        let failover = now.lock().unwrap()[usize::from(id)];
        options.replication = Some(group_options(group, id, failover, mode));
    });
    (started(cluster), chosen)
}

fn follows(cluster: &Running, id: u8) -> bool {
    matches!(cluster.broker(node(id)).and_then(Broker::role), Some(Role::Follower { .. }))
}

/// OK waits for the slaves that the mode asks for, and says nothing else than it knows.
/// proves: M21, M22, I23, I26
#[test]
fn with_replicated_1_a_slave_has_what_is_acknowledged() {
    let mut cluster = manual(1, "replicated 1 flushed");
    cluster.run_for(ms(500));
    let peer = cluster.peer(1, node(0).address()).unwrap();
    let answer = peer.ask(send("kept"));
    assert_eq!(answer.code, response::SUCCESS, "{answer:?}");
    let on_slaves = || (1..3).filter(|id| stored_bytes(&cluster, *id) == stored_bytes(&cluster, 0)).count();
    assert!(on_slaves() >= 1);
    cluster.kill(node(1));
    assert_eq!(peer.ask(send("kept too")).code, response::SUCCESS);
    cluster.kill(node(2));
    // It is not known yet that nobody is left.
    let late = peer.ask(send("stored, and nobody knows more"));
    assert!([response::FLUSH_SLAVE_TIMEOUT, response::SLAVE_NOT_AVAILABLE].contains(&late.code), "{late:?}");
    let end = cluster.store(node(0)).unwrap().marks().appended;
    let refused = peer.ask(send("refused before it is written"));
    assert_eq!(refused.code, response::SERVICE_NOT_AVAILABLE, "{refused:?}");
    assert!(refused.remark.unwrap().contains("0 slaves are in sync"));
    assert_eq!(cluster.store(node(0)).unwrap().marks().appended, end);
}

/// What a node has on stable storage.
fn stored_bytes(cluster: &Running, id: u8) -> u64 {
    cluster.store(node(id)).unwrap().marks().flushed.0
}

/// While no slave answers, nothing is acknowledged; when one does, everything is.
/// proves: M21
#[test]
fn an_answer_waits_for_the_slave() {
    let mut cluster = manual(2, "replicated 1");
    cluster.run_for(ms(500));
    let peer = cluster.peer(1, node(0).address()).unwrap();
    assert_eq!(peer.ask(send("the topic is there now")).code, response::SUCCESS);
    for id in 1..3 {
        cluster.partition(node(0), node(id));
    }
    let mut call = peer.start(send("waits"));
    assert!(peer.poll(&mut call, ms(400)).is_none(), "it is written here, and nowhere else");
    cluster.heal();
    let answer = peer.poll(&mut call, ms(4000)).expect("a slave has it").unwrap();
    assert_eq!(answer.code, response::SUCCESS, "{answer:?}");
}

/// The master is gone for ever, and the slave that has most is promoted: nothing acknowledged is lost.
/// proves: M22
#[test]
fn what_a_slave_acknowledged_survives_the_loss_of_the_master() {
    let (mut cluster, chosen) = chosen(5, "replicated 1 flushed".parse().unwrap());
    let ledger = Ledger::of(TOPIC);
    let host = cluster.host(Node::Client(1));
    cluster.spawn(Node::Client(1), ledger.clone().keep_sending(cluster.producer(1), host, ms(10)));
    cluster.run_for(ms(500));
    cluster.partition(node(0), node(2));
    cluster.run_for(ms(500));
    cluster.power_cut(node(0));
    cluster.heal();
    cluster.run_for(ms(500));
    let end = |id| cluster.broker(node(id)).unwrap().group_status().unwrap().last;
    assert!(end(1) > end(2), "node 1 was connected to the end");
    let before = ledger.counts().ok;
    chosen.lock().unwrap()[1] = Failover::Master { generation: 2 };
    cluster.restart(node(1));
    assert_eq!(leader(&cluster), node(1));
    cluster.run_for(ms(8000));
    assert!(ledger.counts().ok > before, "{:?}", ledger.counts());
    ledger.check(&stored(&cluster, node(1)), |_| Promise::Everything).unwrap();
}

/// Asynchronous copying waits for nobody, and loses what was not copied: that, and nothing else.
/// proves: M19, M20, M31, M32, M33, M34
#[test]
fn a_promoted_slave_goes_on_and_what_only_the_master_had_is_kept_aside() {
    let (mut cluster, chosen) = chosen(3, Mode::Flushed);
    let ledger = Ledger::of(TOPIC);
    let host = cluster.host(Node::Client(1));
    cluster.spawn(Node::Client(1), ledger.clone().keep_sending(cluster.producer(1), host, ms(10)));
    cluster.run_for(ms(1000));
    for id in 1..3 {
        cluster.partition(node(0), node(id));
    }
    let copied = ledger.counts().ok;
    cluster.run_for(ms(500));
    let acknowledged = ledger.counts().ok;
    assert!(acknowledged > copied + 10, "a master without slaves goes on");
    let all = stored(&cluster, node(0));
    cluster.kill(node(0));
    cluster.heal();
    let died = cluster.now();

    cluster.run_for(ms(1000));
    let have = stored(&cluster, node(1));
    let part: Vec<_> =
        all.iter().filter(|found| have.iter().any(|slave| slave.place == found.place)).collect();
    assert_eq!(part.len(), have.len());
    assert!(
        part.iter().zip(&have).all(|(master, slave)| master.body == slave.body),
        "a prefix of each queue"
    );
    let lost = all.len() - have.len();
    assert!(lost > 10);
    let peer = cluster.peer(2, node(1).address()).unwrap();
    assert_eq!(peer.ask(pull(0, 0)).code, response::SUCCESS, "slaves hand out what they have");

    *chosen.lock().unwrap() = [Failover::Slave, Failover::Master { generation: 2 }, Failover::Slave];
    cluster.restart(node(1));
    assert_eq!(leader(&cluster), node(1));
    let before = ledger.counts().ok;
    while ledger.counts().ok == before {
        cluster.run_for(ms(5));
    }
    println!("unavailable for {} ms, {lost} messages lost", cluster.now().since(died).as_millis());

    // The old master comes back as what it was started as before: it is fenced, and follows.
    *chosen.lock().unwrap() =
        [Failover::Master { generation: 1 }, Failover::Master { generation: 2 }, Failover::Slave];
    cluster.restart(node(0));
    cluster.run_for(ms(3000));
    assert!(follows(&cluster, 0), "{:?}", cluster.broker(node(0)).unwrap().group_status());
    assert_eq!(leader(&cluster), node(1));
    cluster.kill(Node::Client(1));
    cluster.run_for(ms(1000));
    assert_eq!(stored(&cluster, node(0)).len(), stored(&cluster, node(1)).len());
    assert!(cluster.disk(node(0)).paths().iter().any(|path| path.starts_with("staticfire/orphans/")));
    cluster.violation().unwrap();
}

/// proves: M31, M32, M35
#[test]
fn nothing_promotes_itself() {
    let mut cluster = manual(4, "flushed");
    let peer = cluster.peer(1, node(0).address()).unwrap();
    assert_eq!(peer.ask(send("there")).code, response::SUCCESS);
    cluster.run_for(ms(500));
    cluster.kill(node(0));
    cluster.run_for(ms(30 * 60_000));
    assert!(follows(&cluster, 1) && follows(&cluster, 2));
    for name_server in 0..2 {
        assert!(registered(&cluster, name_server).iter().all(|(id, _)| *id > 0), "nobody is master");
    }
    let peer = cluster.peer(1, node(2).address()).unwrap();
    assert_eq!(peer.ask(send("refused")).code, response::SERVICE_NOT_AVAILABLE);
    assert_eq!(peer.ask(pull(0, 0)).code, response::SUCCESS);
    assert_eq!(cluster.broker(node(1)).unwrap().group_status().unwrap().node, NodeId(2));
}
