//! Topics that ask for more than their broker's mode.

use staticfire::protocol::codes::response;
use staticfire::replication::{Failover, Mode};
use staticfire::sim::{Node, Running};
use staticfire::transport::Command;

use crate::manual::chosen;
use crate::state::{ask, create, topic_at};
use crate::world::{TOPIC, leader, ms, node, raft, send};

/// A send to `topic`.
fn to(topic: &str, body: &str) -> Command {
    let mut send = send(body);
    let renamed = |(name, value)| (name, if value == TOPIC { topic } else { value });
    send.ext = send.ext.iter().map(renamed).collect();
    send
}

fn changed(topic: &str, attributes: &str) -> Command {
    create(topic, 1).with_ext("attributes", attributes)
}

fn mode_of(cluster: &Running, at: Node, topic: &str) -> Option<String> {
    topic_at(cluster, at, topic).unwrap().attributes.get("staticfire.mode").cloned()
}

/// OK for the topic means that the slaves have it, and says so; others of the same broker wait for nobody.
/// proves: M21, I23, I25, I26, I42: four modes, raised per topic
#[test]
fn a_topic_that_asks_for_slaves_waits_for_them_and_no_other_does() {
    let (mut cluster, chosen) = chosen(61, Mode::Flushed);
    let master = node(0);
    for made in [changed("orders", "+staticfire.mode=replicated 2"), create("plain", 1)] {
        assert_eq!(ask(&cluster, master, made).code, response::SUCCESS);
    }
    cluster.run_for(ms(1000));
    let answer = ask(&cluster, master, to("orders", "kept"));
    assert_eq!((answer.code, answer.ext.get("reached")), (response::SUCCESS, Some("replicated 2")));
    let end = |id| cluster.store(node(id)).unwrap().marks().written;
    assert_eq!((end(1), end(2)), (end(0), end(0)), "both slaves have it");
    let answer = ask(&cluster, master, to("plain", "kept"));
    assert_eq!((answer.code, answer.ext.get("reached")), (response::SUCCESS, None));

    // It is not known yet that a slave is gone: written, and late.
    cluster.partition(master, node(2));
    let peer = cluster.peer(1, master.address()).unwrap();
    let mut call = peer.start(to("orders", "late"));
    assert_eq!(ask(&cluster, master, to("plain", "at once")).code, response::SUCCESS);
    let late = peer.poll(&mut call, ms(9000)).expect("an answer").unwrap();
    assert!([response::FLUSH_SLAVE_TIMEOUT, response::SLAVE_NOT_AVAILABLE].contains(&late.code), "{late:?}");

    // Then it is: refused before it is written, for this topic only.
    let end = cluster.store(master).unwrap().marks().appended;
    let refused = ask(&cluster, master, to("orders", "refused"));
    assert_eq!(refused.code, response::SERVICE_NOT_AVAILABLE, "{refused:?}");
    let words = refused.remark.unwrap();
    assert!(words.contains("replicated 2") && words.contains("1 slaves are in sync"), "{words}");
    assert_eq!(cluster.store(master).unwrap().marks().appended, end);
    assert_eq!(ask(&cluster, master, to("plain", "at once")).code, response::SUCCESS);

    // Another master promises the same.
    cluster.heal();
    cluster.run_for(ms(1000));
    cluster.kill(master);
    chosen.lock().unwrap()[1] = Failover::Master { generation: 2 };
    cluster.restart(node(1));
    assert_eq!(leader(&cluster), node(1));
    assert_eq!(mode_of(&cluster, node(1), "orders").as_deref(), Some("replicated 2"));
    cluster.run_for(ms(1000));
    let refused = ask(&cluster, node(1), to("orders", "refused"));
    assert_eq!(refused.code, response::SERVICE_NOT_AVAILABLE, "{refused:?}");
    assert_eq!(ask(&cluster, node(1), to("plain", "at once")).code, response::SUCCESS);
    cluster.violation().unwrap();
}

/// A master that loses its lead meanwhile knows nothing of what waits for slaves.
/// proves: I22, I25, M33
#[test]
fn what_waits_for_slaves_when_the_lead_ends_is_an_error() {
    let (mut cluster, chosen) = chosen(62, Mode::Flushed);
    let master = node(0);
    let made = changed("orders", "+staticfire.mode=replicated 2");
    assert_eq!(ask(&cluster, master, made).code, response::SUCCESS);
    cluster.run_for(ms(1000));
    for id in 1..3 {
        cluster.partition(master, node(id));
    }
    let peer = cluster.peer(1, master.address()).unwrap();
    let mut call = peer.start(to("orders", "on the master alone"));
    chosen.lock().unwrap()[1] = Failover::Master { generation: 2 };
    cluster.stop(node(1)).unwrap();
    cluster.restart(node(1));
    cluster.run_for(ms(1000));
    assert!(peer.poll(&mut call, ms(1)).is_none());
    cluster.heal();
    let answer = peer.poll(&mut call, ms(9000)).expect("an answer").unwrap();
    assert_eq!(answer.code, response::SYSTEM_ERROR, "{answer:?}");
    assert!(answer.remark.unwrap().contains("lost its role"));
}

/// Attributes are changes, as with RocketMQ; a mode that cannot be kept is refused, and none lowers the broker's.
/// proves: B33, D2
#[test]
fn only_modes_that_can_be_kept_are_taken_and_none_lowers_the_brokers() {
    let (cluster, _) = chosen(63, "replicated 1".parse().unwrap());
    let master = node(0);
    cluster.run_for(ms(500));
    let code = |attributes: &str| ask(&cluster, master, changed("orders", attributes)).code;
    assert_eq!(code("+staticfire.mode=written,+team=a"), response::SUCCESS);
    assert_eq!(mode_of(&cluster, master, "orders").as_deref(), Some("written"));
    let answer = ask(&cluster, master, to("orders", "kept"));
    assert_eq!(
        (answer.code, answer.ext.get("reached")),
        (response::SUCCESS, None),
        "the broker's mode counts"
    );
    for wrong in ["replicated 3", "quorum", "fast", "replicated 0"] {
        assert_eq!(code(&format!("+staticfire.mode={wrong}")), response::INVALID_PARAMETER, "{wrong}");
    }
    assert_eq!(code("+staticfire.mode=replicated 2 flushed"), response::SUCCESS);
    let answer = ask(&cluster, master, to("orders", "kept"));
    assert_eq!((answer.code, answer.ext.get("reached")), (response::SUCCESS, Some("replicated 2 flushed")));
    let flushed = |id| cluster.store(node(id)).unwrap().marks().flushed;
    assert_eq!((flushed(1), flushed(2)), (flushed(0), flushed(0)));
    // Whoever changes something else leaves it as it is.
    assert_eq!(code(""), response::SUCCESS);
    assert_eq!(mode_of(&cluster, master, "orders").as_deref(), Some("replicated 2 flushed"));
    assert_eq!(code("-staticfire.mode"), response::SUCCESS);
    assert_eq!(mode_of(&cluster, master, "orders"), None);
    assert_eq!(topic_at(&cluster, master, "orders").unwrap().attributes["team"], "a");

    let cluster = raft(64);
    let at = leader(&cluster);
    let code = |attributes: &str| ask(&cluster, at, changed("orders", attributes)).code;
    assert_eq!(code("+staticfire.mode=replicated 2"), response::INVALID_PARAMETER, "OK means quorum there");
    assert_eq!(code("+staticfire.mode=quorum"), response::SUCCESS);
}
