//! Somebody who is no member, on the replication ports of a group that works.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster::{Cluster, RAFT, address, ip, message};
use staticfire_replication::wire::{self, Envelope, Message};
use staticfire_replication::{
    Answer, DiskId, Draw, Fetch, FetchAnswer, NodeId, Request, VoteAnswer, VoteRequest,
};
use staticfire_storage::{Epoch, PhysicalOffset, Position};
use staticfire_transport::memory::Host;
use staticfire_transport::{Command, Connection, Runtime, Service, Transport};

const GROUP: &str = "DefaultCluster/broker-a";
const REPLICATION: i32 = 20_001;
const SECOND: Duration = Duration::from_secs(1);

/// Asks, and hears nothing.
struct Deaf;

impl Service for Deaf {
    fn turn(&self, _: &Connection, requests: &mut Vec<Command>) {
        requests.clear();
    }
}

/// What the stranger says to one node.
struct Stranger<'a> {
    cluster: &'a Cluster,
    host: Host,
    draw: Draw,
}

impl Stranger<'_> {
    fn below(&mut self, limit: u64) -> u64 {
        self.draw.next() % limit
    }

    fn any(&mut self, limit: u64) -> Bytes {
        let len = self.below(limit) as usize;
        (0..len).map(|_| self.draw.next() as u8).collect()
    }

    fn position(&mut self) -> Position {
        let end = [0, 1, 4096, 1 << 40, u64::MAX][self.below(5) as usize];
        Position { epoch: self.epoch(), end: PhysicalOffset(end) }
    }

    fn epoch(&mut self) -> Epoch {
        Epoch([0, 1, 2, 1000, i32::MAX as u64, u64::MAX][self.below(6) as usize])
    }

    /// Something that a member could say.
    fn request(&mut self) -> Request {
        let (epoch, last, flag) = (self.epoch(), self.position(), self.below(2) == 0);
        match self.below(4) {
            0 => {
                let fetch = Fetch {
                    session: u64::MAX,
                    epoch,
                    at: last,
                    flushed: last.end,
                    visible: last.end,
                    round: u64::MAX,
                    learner: flag,
                };
                Request::Fetch(fetch)
            }
            1 => Request::Vote(VoteRequest { epoch, last, pre: flag, transfer: true }),
            2 => Request::TakeOver { epoch },
            _ => Request::Introduce { disk: DiskId(1) },
        }
    }

    fn answer(&mut self) -> Answer {
        let (epoch, last) = (self.epoch(), self.position());
        match self.below(3) {
            0 => Answer::Vote(VoteAnswer { epoch, asked: epoch, pre: false, granted: true }),
            1 => Answer::Fetch(FetchAnswer::Diverged { session: 1, epoch, common: last }),
            _ => Answer::Fetch(FetchAnswer::Refused { epoch, leader: Some(NodeId(9)), session: u64::MAX }),
        }
    }

    /// Bytes of another protocol, or a frame that never ends; the connection, which it may keep.
    fn noise(&mut self, node: usize) {
        let stream = self.cluster.network.block_on(self.host.stream(address(node)), SECOND);
        let Some(Ok(mut stream)) = stream else { return };
        let bytes = if self.below(2) == 0 {
            self.any(10_000)
        } else {
            Bytes::from_static(&[0, 1, 0, 0, 0, 0, 0, 50, b'{'])
        };
        let _ = self.cluster.network.block_on(stream.write(&bytes), SECOND);
    }

    /// A frame with a message that is damaged, meant for others, or from nobody; true if it may be answered.
    fn frame(&mut self, node: usize) -> (Command, bool) {
        let (me, other) = (NodeId(node as u32 + 1), NodeId((node as u32 + 1) % 3 + 1));
        let mut envelope = Envelope {
            group: GROUP.to_owned(),
            from: other,
            to: me,
            message: Message::Request(self.request()),
        };
        let (mut code, mut flipped, mut answered) = (REPLICATION, false, false);
        match self.below(8) {
            0 => envelope.group = "DefaultCluster/broker-b".to_owned(),
            1 => envelope.group.clear(),
            2 => envelope.to = other,
            3 => envelope.from = NodeId([0, 4, u32::MAX][self.below(3) as usize]),
            4 => envelope.message = Message::Answer(self.answer()),
            5 => code = [0, -1, 310, REPLICATION + 1][self.below(4) as usize],
            // By its own name: a node says nothing to itself.
            6 => (envelope.from, answered) = (me, true),
            _ => flipped = true,
        }
        let records = self.any(1000);
        let mut body = wire::encode(&envelope, vec![records]).concat();
        if flipped {
            let bit = 12 * 8 + self.below((body.len() as u64 - 12) * 8) as usize;
            body[bit / 8] ^= 1 << (bit % 8);
        }
        (Command::request(code).with_body(body), answered)
    }

    fn says(&mut self, node: usize) {
        if self.below(4) == 0 {
            return self.noise(node);
        }
        let dialled = self.host.connect(address(node), Arc::new(Deaf));
        let Some(Ok(connection)) = self.cluster.network.block_on(dialled, SECOND) else { return };
        let (command, answered) = self.frame(node);
        let answer = self.cluster.network.block_on(connection.call(command.clone(), SECOND), 2 * SECOND);
        assert!(answered || answer.is_some_and(|answer| answer.is_err()), "answered: {command:?}");
        assert!(answered || !connection.is_open(), "kept: {command:?}");
    }
}

/// For a minute, and for more by `STATICFIRE_CASES`.
///
/// proves: B48, B49, B50, B52, B56: whoever is on the port without being a member writes nothing, moves no epoch,
/// no leader and no mark, and keeps nobody from working
#[test]
fn a_hostile_peer_on_the_replication_ports_changes_nothing() {
    let cases = std::env::var("STATICFIRE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_u32);
    let cluster = Cluster::start(99, RAFT.to_vec());
    let leader = cluster.elect();
    cluster.run(1000);
    let epoch = cluster.node(leader).member.status().epoch;
    let host = cluster.network.host(ip(9));
    let mut stranger = Stranger { cluster: &cluster, host, draw: Draw::new(99) };
    let (mut said, mut sent) = (0, Vec::new());
    let until = stranger.host.now() + 60 * SECOND * cases;
    while stranger.host.now() < until {
        stranger.says(said % 3);
        said += 1;
        if said % 10 == 0 {
            let body = format!("{said}");
            let receipt = cluster.node(leader).store.append(&message(&body)).unwrap();
            let told = cluster.outcome(&receipt, leader);
            cluster.run_until(|| told.lock().unwrap().is_some());
            assert_eq!(*told.lock().unwrap(), Some(staticfire_storage::Outcome::Reached), "{body}");
            sent.push(body);
        }
    }
    println!("{said} messages of a stranger, {} of our own meanwhile", sent.len());
    assert!(said > 6_000, "{said} are too few to prove anything");
    cluster.run(1000);
    assert_eq!(cluster.leader(), Some(leader));
    for index in 0..3 {
        assert_eq!(cluster.node(index).member.status().epoch, epoch, "{:?}", cluster.statuses());
        assert_eq!(cluster.bodies(index), sent, "node {index}");
        assert_eq!(cluster.log(index), cluster.log(leader));
    }
}
