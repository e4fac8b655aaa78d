//! Brokers whose leader the operator chooses.

use staticfire::protocol::codes::response;

use crate::world::{manual, ms, node, send};

/// OK waits for the slaves that the mode asks for, and says nothing else than it knows.
/// proves: M21, M22, I23, I26
#[test]
fn with_replicated_1_a_slave_has_what_is_acknowledged() {
    let mut cluster = manual(1, "replicated 1 flushed");
    cluster.run_for(ms(500));
    let peer = cluster.peer(1, node(0).address()).unwrap();
    let answer = peer.ask(send("kept"));
    assert_eq!(answer.code, response::SUCCESS, "{answer:?}");
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
