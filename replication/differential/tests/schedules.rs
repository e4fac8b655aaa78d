//! The same schedules on our replicas and on the `raft` crate: whatever Raft decides, both decide alike.
//!
//! | step | compared after it |
//! |---|---|
//! | a node stands, and some of the others hear of it | epoch and vote of every node, and whether it won |
//! | a leader appends | its log |
//! | a leader's sync completes | what it confirms by it |
//! | a follower hears of a leader and copies | both logs: cut at the same place; what both take for confirmed |
//! | a node loses what it had not synced | its log, epoch and vote |
//!
//! A record is an entry, and the barrier of an epoch the empty entry of a term. Time stands still on both sides:
//! a node stands when the schedule says so, and messages that it does not mention are lost. The few places where
//! both are right and differ are marked below. `STATICFIRE_SCHEDULES` says how many schedules (default 200).

#[path = "../../tests/world/mod.rs"]
mod world;

use std::collections::BTreeSet;

use raft::eraftpb::{Entry, Message as Letter, MessageType};
use raft::storage::MemStorage;
use raft::{Config, Raft, StateRole, Storage};
use staticfire_replication::{Answer, Draw, FetchAnswer, Input};
use staticfire_storage::Position;
use world::{Action, Budget, Message, Rec, World, id};

/// The group as the `raft` crate runs it.
struct Theirs {
    nodes: Vec<Raft<MemStorage>>,
}

fn logger() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}

fn open(node: usize, storage: MemStorage) -> Raft<MemStorage> {
    let config = Config { id: node as u64 + 1, max_size_per_msg: u64::MAX, ..Config::default() };
    Raft::new(&config, storage, &logger()).expect("a node")
}

fn letter(kind: MessageType, from: usize, to: usize, term: u64) -> Letter {
    let mut letter = Letter::default();
    letter.set_msg_type(kind);
    (letter.from, letter.to, letter.term) = (from as u64 + 1, to as u64 + 1, term);
    letter
}

impl Theirs {
    fn new(count: usize) -> Self {
        let members: Vec<u64> = (1..=count as u64).collect();
        let storage = || MemStorage::new_with_conf_state((members.clone(), vec![]));
        Self { nodes: (0..count).map(|node| open(node, storage())).collect() }
    }

    fn leads(&self, node: usize) -> bool {
        self.nodes[node].state == StateRole::Leader
    }

    /// Lets a letter arrive; term and vote are on the disk before anything leaves. A leader's entries are not.
    fn arrive(&mut self, letter: Letter) {
        let node = letter.to as usize - 1;
        // A proposal may be refused; that is compared by its outcome.
        drop(self.nodes[node].step(letter));
        if !self.leads(node) {
            self.sync(node);
        }
        let state = self.nodes[node].hard_state();
        self.nodes[node].store().wl().set_hardstate(state);
    }

    fn sync(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        let unstable = node.raft_log.unstable_entries().to_vec();
        if let Some(last) = unstable.last() {
            let (index, term) = (last.index, last.term);
            node.raft_log.stable_entries(index, term);
            node.store().wl().append(&unstable).expect("entries that follow");
            node.on_persist_entries(index, term);
        }
    }

    /// Everything between these arrives; what goes to others is lost.
    fn run(&mut self, among: &BTreeSet<usize>) {
        loop {
            let mut letters = Vec::new();
            for node in &mut self.nodes {
                letters.append(&mut node.msgs);
            }
            let known = |end: u64| among.contains(&(end as usize - 1));
            letters.retain(|letter| known(letter.from) && known(letter.to));
            if letters.is_empty() {
                return;
            }
            letters.into_iter().for_each(|letter| self.arrive(letter));
        }
    }

    fn campaign(&mut self, node: usize, voters: &BTreeSet<usize>) {
        self.arrive(letter(MessageType::MsgHup, node, node, 0));
        // Until the votes are counted: the new leader's first letters are lost.
        let mut letters = std::mem::take(&mut self.nodes[node].msgs);
        letters.retain(|letter| voters.contains(&(letter.to as usize - 1)));
        letters.into_iter().for_each(|letter| self.arrive(letter));
        for voter in voters {
            let answers = std::mem::take(&mut self.nodes[*voter].msgs);
            answers.into_iter().filter(|it| it.to as usize == node + 1).for_each(|it| self.arrive(it));
        }
        self.run(&BTreeSet::new());
    }

    /// A node hears of a later term.
    fn learn(&mut self, node: usize, from: usize, term: u64) {
        if self.nodes[node].term < term {
            self.arrive(letter(MessageType::MsgAppendResponse, from, node, term));
        }
    }

    fn append(&mut self, leader: usize, number: u8) {
        let mut proposal = letter(MessageType::MsgPropose, leader, leader, 0);
        proposal.set_entries(vec![Entry { data: vec![number].into(), ..Entry::default() }].into());
        self.arrive(proposal);
        self.run(&BTreeSet::new());
    }

    fn copy(&mut self, leader: usize, follower: usize) {
        let to = follower as u64 + 1;
        let progress = self.nodes[leader].mut_prs().get_mut(to).expect("a member");
        progress.become_probe();
        progress.resume();
        self.nodes[leader].send_append(to);
        self.run(&BTreeSet::from([leader, follower]));
    }

    fn crash(&mut self, node: usize) {
        let storage = self.nodes[node].store().clone();
        // A leader may commit what others have flushed and it has not.
        let last = storage.last_index().expect("an index");
        let mut state = self.nodes[node].hard_state();
        state.commit = state.commit.min(last);
        storage.wl().set_hardstate(state);
        self.nodes[node] = open(node, storage);
    }

    fn log(&self, node: usize) -> Vec<Rec> {
        let log = &self.nodes[node].raft_log;
        let first = self.nodes[node].store().first_index().expect("an index");
        let entries = log.entries(first, u64::MAX, raft::GetEntriesContext::empty(false)).unwrap_or_default();
        let record =
            |entry: &Entry| Rec { epoch: entry.term, number: entry.data.first().copied().unwrap_or(0) };
        entries.iter().map(record).collect()
    }
}

/// Our side of a step that lets a node stand before some others.
fn campaign(world: &mut World, node: usize, voters: &BTreeSet<usize>) {
    // Who still hears of a leader protects it here (check-quorum): these have lost theirs.
    for voter in voters {
        for member in 0..world.nodes.len() {
            world.step(*voter, 0, Input::Unanswered { from: id(member) }, &[]);
        }
    }
    world.act(&Action::Campaign(node));
    save(world, node);
    let between = |world: &mut World, from: usize, to: usize| {
        let some = world.net.iter().find(|it| (it.from, it.to) == (from, to)).cloned();
        some.into_iter().for_each(|envelope| world.act(&Action::Deliver(envelope)));
    };
    for voter in voters {
        between(world, node, *voter);
        save(world, *voter);
    }
    // Who knows of a later epoch says so last: until then votes count, as they do there.
    let epoch = world.nodes[node].replica.epoch();
    let (later, others): (Vec<usize>, Vec<usize>) =
        voters.iter().partition(|voter| world.nodes[**voter].replica.epoch() > epoch);
    for voter in others.into_iter().chain(later) {
        between(world, voter, node);
        save(world, node);
    }
    world.net.clear();
}

fn save(world: &mut World, node: usize) {
    while world.nodes[node].saving.is_some() {
        world.act(&Action::CompleteSave(node));
    }
}

/// The follower learns who leads, from whomever it asked, and copies until both are at rest.
fn copy(world: &mut World, leader: usize, follower: usize) {
    let epoch = world.nodes[leader].replica.epoch();
    let session = world.nodes[follower].replica.session();
    let refused = FetchAnswer::Refused { epoch, leader: Some(id(leader)), session };
    let stale = FetchAnswer::Diverged { session: 0, epoch, common: Position::default() };
    // A candidate of this epoch follows by any answer of the leader; the others by what they are told.
    world.step(follower, 0, Input::Answer { from: id(leader), answer: Answer::Fetch(stale) }, &[]);
    for member in 0..world.nodes.len() {
        if world.nodes[follower].replica.leader().is_none() {
            let input = Input::Answer { from: id(member), answer: Answer::Fetch(refused) };
            world.step(follower, 0, input, &[]);
        }
    }
    let among = [leader, follower];
    for _ in 0..1_000 {
        save(world, follower);
        save(world, leader);
        let here = |it: &&world::Envelope| among.contains(&it.from) && among.contains(&it.to);
        let next = world.net.iter().find(here).cloned();
        let unsynced = world.nodes[follower].durable < world.nodes[follower].log.len();
        match next {
            Some(envelope) => world.act(&Action::Deliver(envelope)),
            None if unsynced => {
                world.act(&Action::StartSync(follower));
                world.act(&Action::CompleteSync(follower));
            }
            // It had asked this very leader before, or was told that an earlier session is over: it asks again.
            None if !world.nodes[follower].replica.is_copying() && world.nodes[leader].replica.leads() => {
                world.act(&Action::Tick(follower));
            }
            None => break,
        }
    }
    world.net.clear();
    // Whoever is asked next finds nobody there.
    for node in among {
        if !world.nodes[node].replica.leads() {
            for member in 0..world.nodes.len() {
                world.step(node, 0, Input::Unanswered { from: id(member) }, &[]);
            }
        }
    }
    world.net.retain(|it| !matches!(it.message, Message::Request(_)));
}

#[derive(Debug)]
enum Step {
    Campaign(usize, BTreeSet<usize>),
    Append(usize),
    Sync(usize),
    Copy(usize, usize),
    Crash(usize),
}

fn draw_step(world: &World, draw: &mut Draw) -> Step {
    let count = world.nodes.len() as u64;
    let node = (draw.next() % count) as usize;
    let leaders: Vec<usize> = (0..world.nodes.len()).filter(|it| world.nodes[*it].replica.leads()).collect();
    let leader = leaders.get((draw.next() % leaders.len().max(1) as u64) as usize).copied();
    match (draw.next() % 100, leader) {
        (0..8, _) => Step::Crash(node),
        (8..30, Some(leader)) => Step::Append(leader),
        (30..50, Some(leader)) => Step::Sync(leader),
        (50..92, Some(leader)) if leader != node => Step::Copy(leader, node),
        _ => {
            let voters = (0..world.nodes.len()).filter(|voter| *voter != node && draw.next() % 4 > 0);
            Step::Campaign(node, voters.collect())
        }
    }
}

fn perform(ours: &mut World, theirs: &mut Theirs, step: &Step, number: u8) {
    match step {
        Step::Campaign(node, voters) => {
            // A leader here gives its vote to nobody, there it steps down for a later term: they restart.
            for it in voters.iter().chain([node]) {
                if ours.nodes[*it].replica.leads() {
                    crash(ours, theirs, *it);
                }
            }
            campaign(ours, *node, voters);
            theirs.campaign(*node, voters);
            // Ours says which later epoch it knows; there a vote for an earlier term gets no answer.
            theirs.learn(*node, (*node + 1) % ours.nodes.len(), ours.nodes[*node].replica.epoch().0);
            if !ours.nodes[*node].replica.leads() {
                sync(ours, *node);
            }
        }
        Step::Append(leader) => {
            ours.append(*leader, number);
            ours.net.clear();
            theirs.append(*leader, number);
        }
        Step::Sync(leader) => {
            if ours.nodes[*leader].durable < ours.nodes[*leader].log.len() {
                ours.act(&Action::StartSync(*leader));
                ours.act(&Action::CompleteSync(*leader));
                ours.net.clear();
            }
            theirs.sync(*leader);
            theirs.run(&BTreeSet::new());
        }
        Step::Copy(leader, follower) => {
            let later = ours.nodes[*follower].replica.epoch();
            if later > ours.nodes[*leader].replica.epoch() {
                // The leader is an old one, and learns it.
                let input = Input::Answer { from: id(*follower), answer: Answer::TakeOver { epoch: later } };
                ours.step(*leader, 0, input, &[]);
                save(ours, *leader);
                theirs.learn(*leader, *follower, later.0);
                // What a leader had appended is written before anybody else's records: there by its next sync.
                theirs.sync(*leader);
                sync(ours, *leader);
            } else {
                if ours.nodes[*follower].replica.leads() {
                    sync(ours, *follower);
                    theirs.sync(*follower);
                }
                copy(ours, *leader, *follower);
                theirs.copy(*leader, *follower);
            }
        }
        Step::Crash(node) => crash(ours, theirs, *node),
    }
}

fn sync(world: &mut World, node: usize) {
    if world.nodes[node].durable < world.nodes[node].log.len() {
        world.act(&Action::StartSync(node));
        world.act(&Action::CompleteSync(node));
    }
    world.net.clear();
}

fn crash(ours: &mut World, theirs: &mut Theirs, node: usize) {
    ours.act(&Action::Crash { node, keep: ours.nodes[node].durable, promise: true });
    ours.net.clear();
    theirs.crash(node);
}

/// Everything on which both must agree.
fn compare(ours: &World, theirs: &Theirs, step: &Step) -> Result<(), String> {
    for (index, (our, their)) in ours.nodes.iter().zip(&theirs.nodes).enumerate() {
        let promise = our.replica.promise();
        let (vote, epoch) = (promise.vote.map_or(0, |vote| u64::from(vote.0)), promise.epoch.0);
        let log = theirs.log(index);
        let facts = [
            ("epoch", epoch == their.term, format!("{epoch}, {}", their.term)),
            ("vote", vote == their.vote, format!("{vote}, {}", their.vote)),
            ("leads", our.replica.leads() == theirs.leads(index), format!("{:?}", their.state)),
            ("log", our.log == log, format!("{:?}, {log:?}", our.log)),
        ];
        for (what, same, both) in facts {
            if !same {
                return Err(format!("node {}: {what}: ours and theirs: {both}", index + 1));
            }
        }
        if theirs.leads(index) {
            let (serves, current) = (our.replica.serves(), their.commit_to_current_term());
            let (confirmed, committed) = (our.replica.confirmed().0, their.raft_log.committed);
            if serves != current || serves && confirmed != committed {
                return Err(format!(
                    "leader {}: confirmed {confirmed} (serves: {serves}), committed {committed} ({current})",
                    index + 1
                ));
            }
        }
    }
    if let Step::Copy(leader, follower) = step
        && ours.nodes[*leader].replica.serves()
    {
        let confirmed = ours.nodes[*follower].replica.confirmed().0;
        let committed = theirs.nodes[*follower].raft_log.committed;
        if confirmed != committed {
            return Err(format!("the follower's: confirmed {confirmed}, committed {committed}"));
        }
    }
    Ok(())
}

/// How often what happened.
#[derive(Debug, Default)]
struct Counts {
    elected: usize,
    refused: usize,
    cut: usize,
    confirmed: usize,
}

/// Runs one schedule on both; an error says where they part.
fn run(seed: u64, bug: Option<&'static str>, counts: &mut Counts) -> Result<(), String> {
    let mut draw = Draw::new(seed);
    let count = if draw.next().is_multiple_of(3) { 5 } else { 3 };
    let all = u8::MAX;
    let budget = Budget { epochs: 10_000, appends: all, crashes: all, asks: u16::MAX, ..Budget::NONE };
    let (mut ours, mut theirs) = (World::new(count, budget, 1_000, bug), Theirs::new(count));
    for at in 0..200_u8 {
        let step = draw_step(&ours, &mut draw);
        let before: Vec<Vec<Rec>> = ours.nodes.iter().map(|node| node.log.clone()).collect();
        let known = ours.confirmed.len();
        perform(&mut ours, &mut theirs, &step, at + 1);
        ours.check();
        let violation = ours.violation.as_ref().map(|violation| format!("a promise is broken: {violation}"));
        let compared = violation.map_or_else(|| compare(&ours, &theirs, &step), Err);
        compared.map_err(|differs| format!("schedule {seed}, step {at}: {step:?}: {differs}"))?;
        if let Step::Campaign(node, _) = &step {
            *if ours.nodes[*node].replica.leads() { &mut counts.elected } else { &mut counts.refused } += 1;
        }
        let shorter = |(node, log): (&world::Node, &Vec<Rec>)| !node.log.starts_with(log);
        let crashed = matches!(step, Step::Crash(_));
        counts.cut += usize::from(!crashed && ours.nodes.iter().zip(&before).any(shorter));
        counts.confirmed += usize::from(ours.confirmed.len() > known);
    }
    Ok(())
}

/// proves: I35, I38, I39, I40, I41: votes, elections, cuts and what is confirmed are those of another Raft
#[test]
fn schedules_end_alike_on_another_raft() {
    let schedules =
        std::env::var("STATICFIRE_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(200_u64);
    let mut counts = Counts::default();
    for seed in 0..schedules {
        if let Err(differs) = run(seed, None, &mut counts) {
            panic!("{differs}");
        }
    }
    println!("{schedules} schedules: {counts:?}");
    let Counts { elected, refused, cut, confirmed } = counts;
    let all = [elected, refused, cut, confirmed];
    assert!(schedules < 100 || all.iter().all(|count| *count > 500), "some of it hardly happens");
}

/// proves: these schedules find Z2, Z19, Z20 and Z29
#[cfg(feature = "planted-bugs")]
#[test]
fn replicas_with_a_bug_part_from_another_raft() {
    for bug in ["Z2", "Z19", "Z20", "Z29"] {
        let differs = (0..200).find_map(|seed| run(seed, Some(bug), &mut Counts::default()).err());
        println!("{bug}: {}", differs.expect("nobody noticed"));
    }
}
