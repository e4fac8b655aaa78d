//! What a group knows besides its messages survives its leader.

use std::sync::{Arc, Mutex};

use staticfire::protocol::body::{ConsumerOffsetTable, SubscriptionGroupConfig, TopicConfig, TopicTable};
use staticfire::protocol::codes::{request, response};
use staticfire::protocol::json;
use staticfire::replication::{Failover, Mode, NodeId};
use staticfire::sim::{Cluster, Node, Running, cases};
use staticfire::storage::disk::SimulatedDisk;
use staticfire::storage::{PhysicalOffset, QueueId, QueueOffset, Retention};
use staticfire::transport::Command;

use crate::world::{TOPIC, cluster, group_options, leader, ms, node, raft, send, started};

pub fn ask(cluster: &Running, to: Node, request: Command) -> Command {
    let peer = cluster.peer(1, to.address()).unwrap();
    let answer = peer.ask(request);
    peer.connection.close();
    answer
}

/// As [`ask`], and it was done.
fn done(cluster: &Running, to: Node, request: Command) -> Command {
    let answer = ask(cluster, to, request);
    let trouble = || cluster.broker(to).and_then(|broker| broker.node_view().trouble());
    assert_eq!(answer.code, response::SUCCESS, "{:?}, {:?}", answer.remark, trouble());
    answer
}

pub fn create(topic: &str, queues: i32) -> Command {
    Command::request(request::UPDATE_AND_CREATE_TOPIC)
        .with_ext("topic", topic)
        .with_ext("defaultTopic", "TBW102")
        .with_ext("readQueueNums", queues)
        .with_ext("writeQueueNums", queues)
        .with_ext("perm", 6)
        .with_ext("topicFilterType", "SINGLE_TAG")
        .with_ext("topicSysFlag", 0)
        .with_ext("order", false)
}

fn group(name: &str, retries: i32) -> Command {
    let config = SubscriptionGroupConfig { retry_max_times: retries, ..SubscriptionGroupConfig::new(name) };
    Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTION_GROUP).with_body(json::to_bytes(&config))
}

fn commit(group: &str, topic: &str, offset: i64) -> Command {
    offset_of(request::UPDATE_CONSUMER_OFFSET, group, topic).with_ext("commitOffset", offset)
}

fn offset_of(code: i32, group: &str, topic: &str) -> Command {
    Command::request(code).with_ext("consumerGroup", group).with_ext("topic", topic).with_ext("queueId", 0)
}

fn committed(cluster: &Running, at: Node, group: &str, topic: &str) -> Option<i64> {
    let query = offset_of(request::QUERY_CONSUMER_OFFSET, group, topic).with_ext("setZeroIfNotFound", false);
    let answer = ask(cluster, at, query);
    (answer.code == response::SUCCESS).then(|| answer.ext.get("offset").unwrap().parse().unwrap())
}

pub fn topic_at(cluster: &Running, at: Node, topic: &str) -> Option<TopicConfig> {
    let answer = ask(cluster, at, Command::request(request::GET_TOPIC_CONFIG).with_ext("topic", topic));
    (answer.code == response::SUCCESS).then(|| json::from_slice_tolerant(&answer.body.to_bytes()).unwrap())
}

fn retries_at(cluster: &Running, at: Node, group: &str) -> Option<i32> {
    let ask_for = Command::request(request::GET_SUBSCRIPTION_GROUP_CONFIG).with_ext("group", group);
    let answer = ask(cluster, at, ask_for);
    let config = || json::from_slice_tolerant::<SubscriptionGroupConfig>(&answer.body.to_bytes()).unwrap();
    (answer.code == response::SUCCESS).then(|| config().retry_max_times)
}

/// Makes the topic and the group `C`.
pub fn make_row(cluster: &Running, at: Node) {
    done(cluster, at, create(TOPIC, 1));
    done(cluster, at, group("C", 5));
}

/// proves: I30, I42, I65, M37
#[test]
fn what_a_dead_leader_knew_its_successor_knows() {
    cases(4, |seed| {
        let mut cluster = raft(seed);
        let mut old = leader(&cluster);
        done(&cluster, old, create(TOPIC, 3));
        done(&cluster, old, create("gone", 2));
        done(&cluster, old, group("C", 5));
        for number in 0..10 {
            done(&cluster, old, send(&format!("message {number}")));
        }
        done(&cluster, old, commit("C", TOPIC, 4));
        done(&cluster, old, commit("C", TOPIC, 7));
        done(&cluster, old, Command::request(request::DELETE_TOPIC_IN_BROKER).with_ext("topic", "gone"));
        for round in 0..3 {
            cluster.kill(old);
            let new = leader(&cluster);
            assert_eq!(topic_at(&cluster, new, TOPIC).map(|topic| topic.read_queue_nums), Some(3));
            assert_eq!(topic_at(&cluster, new, "gone"), None, "it was deleted");
            assert_eq!(retries_at(&cluster, new, "C"), Some(5));
            assert_eq!(committed(&cluster, new, "C", TOPIC), Some(7 + round));
            done(&cluster, new, commit("C", TOPIC, 8 + round));
            cluster.restart(old);
            cluster.run_for(ms(1000));
            old = new;
        }
        cluster.violation().unwrap();
    });
}

/// Nodes that were alone before, or RocketMQ's: the group begins with what its first leader had, more than a
/// record of it.
/// proves: I30
#[test]
fn a_group_begins_with_the_files_of_its_first_leader() {
    const GROUPS: usize = 3000;
    let mut cluster = raft(5);
    (0..3).for_each(|id| cluster.kill(node(id)));
    let rows: Vec<String> = (0..GROUPS).map(|row| format!("\"t@G{row}\":{{0:{row},1:7}}")).collect();
    let offsets = format!("{{\"offsetTable\":{{{}}}}}", rows.join(","));
    let topics =
        r#"{"topicConfigTable":{"t":{"topicName":"t","readQueueNums":2,"writeQueueNums":2,"perm":6}}}"#;
    for id in 0..3 {
        let disk = SimulatedDisk::new(id.into());
        disk.put("config/consumerOffset.json", offsets.as_bytes()).unwrap();
        disk.put("config/topics.json", topics.as_bytes()).unwrap();
        cluster.replace_disk(node(id), disk);
    }
    (0..3).for_each(|id| cluster.restart(node(id)));
    let old = leader(&cluster);
    cluster.run_for(ms(3000));
    cluster.kill(old);
    let new = leader(&cluster);
    assert_eq!(topic_at(&cluster, new, "t").map(|topic| topic.read_queue_nums), Some(2));
    let all = ask(&cluster, new, Command::request(request::GET_ALL_CONSUMER_OFFSET));
    let all: ConsumerOffsetTable = json::from_slice_tolerant(&all.body.to_bytes()).unwrap();
    assert_eq!(all.offset_table.len(), GROUPS);
}

/// The files that RocketMQ knows say the same on every node, and a group whose nodes all die starts with it.
/// proves: I30, I42
#[test]
fn every_node_exports_what_is_confirmed_and_all_of_them_start_with_it() {
    let mut cluster = raft(3);
    let old = leader(&cluster);
    done(&cluster, old, create(TOPIC, 3));
    done(&cluster, old, group("C", 5));
    done(&cluster, old, send("message"));
    done(&cluster, old, commit("C", TOPIC, 1));
    cluster.run_for(ms(12_000));
    for id in 0..3 {
        let disk = cluster.disk(node(id));
        let topics = disk.contents("config/topics.json").unwrap();
        let topics: TopicTable = json::from_slice_tolerant(&topics).unwrap();
        assert_eq!(topics.topic_config_table[TOPIC].write_queue_nums, 3);
        assert!(topics.topic_config_table.contains_key("TBW102"), "what every broker has is there too");
        let offsets = disk.contents("config/consumerOffset.json").unwrap();
        let offsets: ConsumerOffsetTable = json::from_slice_tolerant(&offsets).unwrap();
        assert_eq!(offsets.offset_table[&format!("{TOPIC}@C")][&0], 1, "node {id}");
    }
    (0..3).for_each(|id| cluster.power_cut(node(id)));
    (0..3).for_each(|id| cluster.restart(node(id)));
    let new = leader(&cluster);
    assert_eq!(committed(&cluster, new, "C", TOPIC), Some(1));
    assert_eq!(retries_at(&cluster, new, "C"), Some(5));
}

/// A leader that is cut off acknowledges no change, and forgets what it made when it comes back.
/// proves: I30, I65
#[test]
fn what_a_cut_off_leader_changed_is_taken_back() {
    cases(4, |seed| {
        let mut cluster = raft(seed);
        let old = leader(&cluster);
        done(&cluster, old, create(TOPIC, 1));
        done(&cluster, old, group("C", 5));
        (0..9).for_each(|_| drop(done(&cluster, old, send("message"))));
        done(&cluster, old, commit("C", TOPIC, 3));
        (0..3).map(node).filter(|other| *other != old).for_each(|other| cluster.partition(old, other));
        let peer = cluster.peer(1, old.address()).unwrap();
        let requests = [commit("C", TOPIC, 8), create("lost", 1), group("C", 9)];
        let calls: Vec<_> = requests.into_iter().map(|request| peer.start(request)).collect();
        cluster.run_for(ms(6000));
        for call in calls {
            if let Ok(answer) = peer.wait(call) {
                assert_ne!(answer.code, response::SUCCESS, "nobody else has it: {answer:?}");
            }
        }
        let new = leader(&cluster);
        assert_ne!(new, old);
        assert_eq!(committed(&cluster, new, "C", TOPIC), Some(3));
        done(&cluster, new, commit("C", TOPIC, 5));
        cluster.heal();
        cluster.run_for(ms(3000));
        assert_eq!(topic_at(&cluster, old, "lost"), None);
        assert_eq!(retries_at(&cluster, old, "C"), Some(5));
        cluster.broker(new).unwrap().transfer(Some(NodeId(match old {
            Node::Broker { id, .. } => u32::from(id) + 1,
            _ => unreachable!("a broker led"),
        })));
        cluster.run_for(ms(1000));
        let last = leader(&cluster);
        assert_eq!(committed(&cluster, last, "C", TOPIC), Some(5));
        assert_eq!(topic_at(&cluster, last, "lost"), None);
    });
}

/// Asynchronous copying: what only the old master knew goes with its messages, on itself too.
/// proves: I30, M31, M33, M34
#[test]
fn a_promoted_slave_knows_what_was_copied_and_an_old_master_forgets_the_rest() {
    let failover =
        Arc::new(Mutex::new([Failover::Master { generation: 1 }, Failover::Slave, Failover::Slave]));
    let chosen = Arc::clone(&failover);
    let cluster = cluster(3, |_| Failover::Slave, Mode::Flushed).broker_options(move |node, options| {
        let Node::Broker { group, id } = node else { return };
        let failover = chosen.lock().unwrap()[usize::from(id)];
        options.replication = Some(group_options(group, id, failover, Mode::Flushed));
    });
    let mut cluster = started(cluster);
    make_row(&cluster, node(0));
    (0..9).for_each(|_| drop(done(&cluster, node(0), send("message"))));
    done(&cluster, node(0), commit("C", TOPIC, 3));
    cluster.run_for(ms(500));
    (1..3).for_each(|id| cluster.partition(node(0), node(id)));
    done(&cluster, node(0), commit("C", TOPIC, 9));
    done(&cluster, node(0), create("lost", 1));
    cluster.kill(node(0));
    cluster.heal();
    *failover.lock().unwrap() = [Failover::Slave, Failover::Master { generation: 2 }, Failover::Slave];
    cluster.restart(node(1));
    assert_eq!(leader(&cluster), node(1));
    assert_eq!(committed(&cluster, node(1), "C", TOPIC), Some(3));
    assert_eq!(topic_at(&cluster, node(1), "lost"), None);
    done(&cluster, node(1), create("new", 2));
    cluster.restart(node(0));
    cluster.run_for(ms(3000));
    assert!(topic_at(&cluster, node(0), "new").is_some() && topic_at(&cluster, node(0), TOPIC).is_some());
    assert_eq!(topic_at(&cluster, node(0), "lost"), None);
    cluster.violation().unwrap();
}

fn with_little_room(seed: u64) -> Cluster {
    cluster(seed, |_| Failover::Raft, Mode::Quorum).store_options(|_, options| {
        options.segment_bytes = 128 << 10;
        options.retention = Retention { age_ms: None, bytes: Some(256 << 10) };
    })
}

/// Makes enough noise for everything else to expire.
fn fill(cluster: &Running, leader: Node) {
    let noise = || {
        let mut noise = send(&"x".repeat(20_000));
        noise.ext = noise
            .ext
            .iter()
            .map(|(name, value)| (name, if value == TOPIC { "noise" } else { value }))
            .collect();
        noise
    };
    for _ in 0..8 {
        (0..10).for_each(|_| drop(done(cluster, leader, noise())));
        cluster.run_for(ms(10_000));
    }
}

/// Retention removed all messages of a queue, and a replica has nothing of it; when it leads, numbers go on.
/// proves: I14, I30, I42
#[test]
fn a_queue_whose_messages_expired_keeps_its_numbers_on_whoever_leads() {
    let mut cluster = started(with_little_room(4));
    let old = leader(&cluster);
    done(&cluster, old, create(TOPIC, 1));
    done(&cluster, old, create("noise", 1));
    done(&cluster, old, group("C", 5));
    (0..5).for_each(|_| drop(done(&cluster, old, send("message"))));
    done(&cluster, old, commit("C", TOPIC, 5));
    fill(&cluster, old);
    let emptied = |cluster: &Running, at: Node| {
        let queue = cluster.store(at).unwrap().queue(TOPIC, QueueId(0)).unwrap();
        assert_eq!((queue.min(), queue.max()), (QueueOffset(5), QueueOffset(5)), "{at:?}");
    };
    (0..3).for_each(|id| emptied(&cluster, node(id)));

    let fresh = (0..3).map(node).find(|other| *other != old).unwrap();
    cluster.stop(fresh).unwrap();
    let directory = cluster.disk(fresh).directory();
    for path in cluster.disk(fresh).paths() {
        if path.contains(&format!("/{TOPIC}/")) || path.starts_with("config/") {
            directory.remove(&path).unwrap();
        }
    }
    cluster.restart(fresh);
    cluster.run_for(ms(2000));
    let Node::Broker { id, .. } = fresh else { unreachable!("a broker") };
    cluster.broker(old).unwrap().transfer(Some(NodeId(u32::from(id) + 1)));
    cluster.run_for(ms(1000));
    assert_eq!(leader(&cluster), fresh);
    emptied(&cluster, fresh);
    assert_eq!(committed(&cluster, fresh, "C", TOPIC), Some(5));
    let answer = done(&cluster, fresh, send("the next one"));
    assert_eq!(answer.ext.get("queueOffset"), Some("5"));
    cluster.violation().unwrap();
}

/// A node that ends below what the others keep, because it was away or because its disk is new, begins where
/// their logs begin, takes the state of the group from the checkpoint there, and can lead.
/// proves: I14, I30, I42, I47, M20
#[test]
fn who_begins_anew_takes_the_state_from_the_checkpoint() {
    for empty in [false, true] {
        let mut cluster = started(with_little_room(5));
        let old = leader(&cluster);
        done(&cluster, old, create(TOPIC, 1));
        done(&cluster, old, create("noise", 1));
        done(&cluster, old, group("C", 5));
        (0..5).for_each(|_| drop(done(&cluster, old, send("message"))));
        cluster.run_for(ms(500));
        let away = (0..3).map(node).find(|other| *other != old).unwrap();
        cluster.power_cut(away);
        done(&cluster, old, commit("C", TOPIC, 5));
        fill(&cluster, old);
        assert!(cluster.store(old).unwrap().marks().min > PhysicalOffset(0));
        if empty {
            cluster.replace_disk(away, SimulatedDisk::new(77));
        }
        cluster.restart(away);
        cluster.run_for(ms(3000));
        let min = |at: Node| cluster.store(at).unwrap().marks().min;
        assert!(min(away) > PhysicalOffset(0), "it began anew");
        assert_eq!(cluster.broker(away).unwrap().node_view().trouble(), None);

        let Node::Broker { id, .. } = away else { unreachable!("a broker") };
        cluster.broker(old).unwrap().transfer(Some(NodeId(u32::from(id) + 1)));
        cluster.run_for(ms(1000));
        assert_eq!(leader(&cluster), away);
        assert!(topic_at(&cluster, away, TOPIC).is_some());
        assert_eq!(retries_at(&cluster, away, "C"), Some(5));
        assert_eq!(committed(&cluster, away, "C", TOPIC), Some(5));
        let answer = done(&cluster, away, send("the next one"));
        assert_eq!(answer.ext.get("queueOffset"), Some("5"));
        cluster.violation().unwrap();
    }
}
