//! Whom consumers are told to ask next.

use staticfire::protocol::codes::response;
use staticfire::replication::{Failover, Mode};
use staticfire::transport::Command;

use crate::world::{cluster_with, leader, ms, node, pull, send, started};

fn manual(id: u8) -> Failover {
    if id == 0 { Failover::Master { generation: 1 } } else { Failover::Slave }
}

fn number(answer: &Command, name: &str) -> i64 {
    answer.ext.get(name).unwrap().parse().unwrap()
}

/// Where an answer says that a consumer reads on, and whom it asks then.
fn read_on(answer: &Command) -> (i64, i64) {
    assert_eq!(answer.code, response::SUCCESS, "{answer:?}");
    (number(answer, "nextBeginOffset"), number(answer, "suggestWhichBrokerId"))
}

/// proves: M27, M28, M30: a busy master sends consumers to a slave for what that shows, and a slave
/// sends them back when they have caught up with it
#[test]
fn a_busy_master_advises_a_slave_for_what_it_has() {
    let busy = |options: &mut staticfire::broker::BrokerOptions| options.busy_reading = 0..=0;
    let running = started(cluster_with(11, |_| Failover::Raft, Mode::Quorum, busy));
    let leading = leader(&running);
    let master = running.peer(1, leading.address()).unwrap();
    for number in 0..70 {
        assert_eq!(master.ask(send(&format!("message {number}"))).code, response::SUCCESS);
    }
    running.run_for(ms(300));
    let (next, id) = read_on(&master.ask(pull(0, 0)));
    let slave = node(u8::try_from(id - 1).unwrap());
    assert!(next == 32 && slave != leading, "{next} from {id}");
    let peer = running.peer(1, slave.address()).unwrap();
    assert_eq!(read_on(&peer.ask(pull(next, 0))), (64, id), "it has more");
    assert_eq!(read_on(&peer.ask(pull(64, 0))), (70, 0), "back to the master");
    assert_eq!(
        number(&peer.ask(pull(70, 0)), "suggestWhichBrokerId"),
        0,
        "which knows whether there is more"
    );
}

/// proves: M27, M29: what the slave does not have is asked of the master, however busy that is; and a
/// calm master serves everybody itself
#[test]
fn what_no_slave_shows_the_master_serves_however_busy() {
    let busy = |options: &mut staticfire::broker::BrokerOptions| options.busy_reading = 0..=0;
    let mut running = started(cluster_with(12, manual, Mode::Flushed, busy));
    let master = running.peer(1, node(0).address()).unwrap();
    for number in 0..90 {
        assert_eq!(master.ask(send(&format!("message {number}"))).code, response::SUCCESS);
    }
    running.run_for(ms(300));
    [1, 2].into_iter().for_each(|slave| running.partition(node(0), node(slave)));
    for number in 90..100 {
        assert_eq!(master.ask(send(&format!("message {number}"))).code, response::SUCCESS);
    }
    assert_eq!(read_on(&master.ask(pull(50, 0))), (82, 2), "both have it: the first of them");
    let answer = master.ask(pull(63, 0));
    assert_eq!(read_on(&answer), (95, 0), "they end at 90");
    let (wanted, slave) = (number(&answer, "adviceWanted"), number(&answer, "adviceSlaveEnd"));
    assert!(slave < wanted && wanted < number(&answer, "adviceMasterEnd"), "{answer:?}");
    running.run_for(ms(2000));
    assert_eq!(read_on(&master.ask(pull(50, 0))), (82, 0), "slaves that nobody hears of serve nobody");
}

/// proves: M27
#[test]
fn a_calm_master_serves_everybody_itself() {
    let running = started(cluster_with(13, manual, Mode::Flushed, |_| {}));
    let master = running.peer(1, node(0).address()).unwrap();
    for number in 0..40 {
        assert_eq!(master.ask(send(&format!("message {number}"))).code, response::SUCCESS);
    }
    running.run_for(ms(300));
    assert_eq!(read_on(&master.ask(pull(0, 0))), (32, 0));
}
