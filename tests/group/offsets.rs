//! Stored consumer offsets neither jump back nor run ahead, whatever happens to the group.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use staticfire::protocol::body::ConsumerOffsetTable;
use staticfire::protocol::codes::{request, response};
use staticfire::protocol::json;
use staticfire::replication::{Failover, Mode};
use staticfire::sim::{Node, Plan, Running, cases};
use staticfire::transport::memory::Host;
use staticfire::transport::{Command, Connection, Runtime, Service, Transport};

use crate::state::make_row;
use crate::world::{TOPIC, cluster, leader, ms, node, send, started};

const PATIENCE: Duration = Duration::from_secs(3);
/// Nothing that was sent before is under way any more.
const LONG: Duration = Duration::from_secs(10);

struct Nobody;

impl Service for Nobody {
    fn turn(&self, _connection: &Connection, _requests: &mut Vec<Command>) {}
}

/// What a consumer knows.
#[derive(Debug, Default)]
struct Known {
    /// Messages acknowledged.
    sent: i64,
    /// The newest offset that was acknowledged or seen.
    at_least: i64,
    /// The newest that was committed, perhaps in vain.
    at_most: i64,
    /// Commits acknowledged, and offsets seen.
    acknowledged: u32,
    seen: u32,
    broken: Option<String>,
}

/// One message, one commit and one look after the other, at whoever leads.
async fn keep_consuming(host: Host, known: Arc<Mutex<Known>>) {
    loop {
        for id in 0..3 {
            let connecting = host.connect(node(id).address(), Arc::new(Nobody));
            let Ok(connection) = connecting.await else { continue };
            let begun = known.lock().unwrap().acknowledged;
            // First of all, what the new leader knows of what the old one acknowledged.
            while look(&connection, &known).await && consume_one(&connection, &known).await {
                host.sleep(ms(20)).await;
            }
            connection.close();
            if known.lock().unwrap().acknowledged > begun {
                host.sleep(LONG).await;
            }
        }
        host.sleep(ms(100)).await;
    }
}

async fn consume_one(connection: &Connection, known: &Mutex<Known>) -> bool {
    if ask(connection, send("message")).await.is_none() {
        return false;
    }
    let offset = {
        let mut known = known.lock().unwrap();
        known.sent += 1;
        known.at_most = known.sent;
        known.sent
    };
    let commit = row(request::UPDATE_CONSUMER_OFFSET).with_ext("commitOffset", offset);
    if ask(connection, commit).await.is_none() {
        return false;
    }
    {
        let mut known = known.lock().unwrap();
        known.acknowledged += 1;
        known.at_least = offset;
    }
    true
}

async fn look(connection: &Connection, known: &Mutex<Known>) -> bool {
    let Some(answer) = ask(connection, row(request::QUERY_CONSUMER_OFFSET)).await else { return false };
    let found = answer.ext.get("offset").unwrap().parse().unwrap();
    let Some(answer) = ask(connection, row(request::GET_MAX_OFFSET)).await else { return false };
    let max: i64 = answer.ext.get("offset").unwrap().parse().unwrap();
    let mut known = known.lock().unwrap();
    if !(known.at_least..=known.at_most.min(max)).contains(&found) {
        let broken = format!("{found} is stored, of {max} messages; {known:?}");
        known.broken.get_or_insert(broken);
    }
    known.at_least = known.at_least.max(found);
    known.seen += 1;
    true
}

async fn ask(connection: &Connection, request: Command) -> Option<Command> {
    let answer = connection.call(request, PATIENCE).await.ok()?;
    (answer.code == response::SUCCESS).then_some(answer)
}

fn row(code: i32) -> Command {
    Command::request(code).with_ext("consumerGroup", "C").with_ext("topic", TOPIC).with_ext("queueId", 0)
}

fn suffer(seed: u64) {
    let cluster = cluster(seed, |_| Failover::Raft, Mode::Quorum);
    let plan = Plan::seeded(seed, &cluster);
    let mut cluster = started(cluster);
    let old = leader(&cluster);
    make_row(&cluster, old);
    let known = Arc::new(Mutex::new(Known::default()));
    let host = cluster.host(Node::Client(1));
    cluster.spawn(Node::Client(1), keep_consuming(host, Arc::clone(&known)));
    let fine = |cluster: &Running| {
        let known = known.lock().unwrap();
        if let Some(broken) = &known.broken {
            panic!("seed {seed}, plan {plan}: {broken}");
        }
        cluster.violation().unwrap_or_else(|violation| panic!("{violation}"));
        known.seen
    };
    cluster.run(&plan).unwrap_or_else(|violation| panic!("{violation}"));
    let before = fine(&cluster);
    cluster.run_for(ms(30_000));
    assert!(fine(&cluster) > before, "seed {seed}, plan {plan}: nothing goes on: {known:?}");
    cluster.kill(Node::Client(1));
    // Syncs of a slow disk take seconds, and an export needs eight.
    cluster.run_for(ms(120_000));
    let stored = |id| {
        let file = cluster.disk(node(id)).contents("config/consumerOffset.json").unwrap();
        json::from_slice_tolerant::<ConsumerOffsetTable>(&file).unwrap().offset_table
    };
    assert!(!stored(0).is_empty());
    assert!((1..3).all(|id| stored(id) == stored(0)), "seed {seed}, plan {plan}: the nodes disagree");
}

/// proves: I30, I42, I64, I65, Z38
#[test]
fn offsets_neither_jump_back_nor_run_ahead_under_any_plan() {
    cases(16, suffer);
}
