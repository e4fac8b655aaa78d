//! What a member says need not be true, and who says it need not be a member.

mod world;

use staticfire_replication::{
    Answer, Effect, Fetch, FetchAnswer, Input, NodeId, Request, Token, VoteAnswer, VoteRequest,
};
use staticfire_storage::{Epoch, PhysicalOffset, Position};
use world::{Action, Budget, World};

/// A leader of three with a record that only it holds, and nobody connected.
fn leader_with_a_tail() -> World {
    leader_answering(100)
}

/// The same, and so much may be in an answer.
fn leader_answering(fetch_max: u64) -> World {
    let budget = Budget { epochs: 3, appends: 2, asks: 9, ..Budget::NONE };
    let mut world = World::new(3, budget, fetch_max, None);
    world.act(&Action::Campaign(0));
    world.calm();
    for node in [1, 2] {
        world.act(&Action::Tick(node));
        world.calm();
    }
    world.net.clear();
    world.act(&Action::Append(0));
    world.act(&Action::StartSync(0));
    world.act(&Action::CompleteSync(0));
    world.net.clear();
    assert_eq!((world.nodes[0].log.len(), world.confirmed.len()), (2, 1));
    world
}

fn ask(world: &mut World, from: u32, request: Request) -> Vec<Answer> {
    let mut effects = Vec::new();
    let input = Input::Request { from: NodeId(from), token: Token(9), request };
    world.nodes[0].replica.step(0, input, &mut effects);
    let answers = effects.into_iter().filter_map(|effect| match effect {
        Effect::Answer { token: Token(9), answer } => Some(answer),
        _ => None,
    });
    answers.collect()
}

fn fetch(world: &World, end: u64, flushed: u64) -> Fetch {
    let at = Position { epoch: Epoch(1), end: PhysicalOffset(end) };
    let session = world.nodes[1].replica.session();
    let (flushed, visible) = (PhysicalOffset(flushed), PhysicalOffset(0));
    Fetch { session, epoch: Epoch(1), at, flushed, visible, round: 0, learner: false }
}

/// proves: I24, B49, Z28: an acknowledgement above what was sent is not believed
#[test]
fn nobody_acknowledges_what_it_was_not_sent() {
    let mut world = leader_with_a_tail();
    for (end, flushed) in [(3, 3), (1 << 40, 1 << 40)] {
        let request = Request::Fetch(fetch(&world, end, flushed));
        let answers = ask(&mut world, 2, request);
        assert!(matches!(answers[..], [Answer::Fetch(FetchAnswer::Refused { .. })]), "{answers:?}");
        assert_eq!(world.nodes[0].replica.confirmed(), PhysicalOffset(1));
    }
    // More flushed than it says that it has.
    let request = Request::Fetch(fetch(&world, 1, 2));
    ask(&mut world, 2, request);
    assert_eq!(world.nodes[0].replica.confirmed(), PhysicalOffset(1), "no majority has the second record");
    let progress = world.nodes[0].replica.progress()[&NodeId(2)];
    assert_eq!((progress.matched, progress.flushed), (PhysicalOffset(1), PhysicalOffset(1)));
}

/// proves: B49: an older report takes nothing back
#[test]
fn reports_do_not_go_backwards() {
    let mut world = leader_with_a_tail();
    let request = Request::Fetch(fetch(&world, 0, 0));
    ask(&mut world, 2, request);
    let progress = world.nodes[0].replica.progress()[&NodeId(2)];
    assert_eq!((progress.matched, progress.flushed), (PhysicalOffset(1), PhysicalOffset(1)));
}

/// proves: B48, B52: strangers get no votes and no records, and no epoch begins because of them
#[test]
fn strangers_change_nothing() {
    let mut world = leader_with_a_tail();
    let before = world.nodes[0].replica.clone();
    let last = Position { epoch: Epoch(9), end: PhysicalOffset(99) };
    // Number 4 is no member, and number 1 is the leader itself.
    for stranger in [4, 1] {
        let vote = VoteRequest { epoch: Epoch(9), last, pre: false, transfer: true };
        let answers = ask(&mut world, stranger, Request::Vote(vote));
        assert!(matches!(answers[..], [Answer::Vote(VoteAnswer { granted: false, .. })]), "{answers:?}");
        let fetch = Fetch { epoch: Epoch(9), ..fetch(&world, 0, 0) };
        let answers = ask(&mut world, stranger, Request::Fetch(fetch));
        assert!(matches!(answers[..], [Answer::Fetch(FetchAnswer::Refused { .. })]), "{answers:?}");
        ask(&mut world, stranger, Request::TakeOver { epoch: Epoch(1) });
    }
    assert_eq!(world.nodes[0].replica, before);
}

/// proves: B52: an epoch that no format of a record holds is no epoch
#[test]
fn epochs_fit_31_bits() {
    let mut world = leader_with_a_tail();
    let last = Position { epoch: Epoch(1), end: PhysicalOffset(2) };
    let vote = VoteRequest { epoch: Epoch(1 << 31), last, pre: false, transfer: true };
    let answers = ask(&mut world, 2, Request::Vote(vote));
    assert!(matches!(answers[..], [Answer::Vote(VoteAnswer { granted: false, .. })]), "{answers:?}");
    assert_eq!(world.nodes[0].replica.epoch(), Epoch(1));
}

/// proves: B56: who repeats a round that nobody began answers no read
#[test]
fn a_round_that_was_never_told_answers_no_read() {
    let mut world = leader_with_a_tail();
    let request = Request::Fetch(Fetch { round: u64::MAX, ..fetch(&world, 1, 1) });
    ask(&mut world, 2, request);
    let mut effects = Vec::new();
    world.nodes[0].replica.step(0, Input::Read(Token(7)), &mut effects);
    let ready = |effects: &[Effect]| {
        effects.iter().any(|effect| matches!(effect, Effect::ReadReady { token: Token(7), .. }))
    };
    assert!(!ready(&effects), "{effects:?}");
    // The round that was begun with the read, repeated by a majority.
    let request = Request::Fetch(Fetch { round: 1, ..fetch(&world, 1, 1) });
    let input = Input::Request { from: NodeId(2), token: Token(9), request };
    world.nodes[0].replica.step(0, input, &mut effects);
    assert!(ready(&effects), "{effects:?}");
}

fn told(world: &mut World, from: u32, answer: FetchAnswer) -> Vec<Effect> {
    let mut effects = Vec::new();
    let input = Input::Answer { from: NodeId(from), answer: Answer::Fetch(answer) };
    world.nodes[1].replica.step(0, input, &mut effects);
    effects
}

/// proves: B50, B54: records at another place than the next, of another session, an old epoch, or from somebody who
/// does not lead are not taken; what is called confirmed beyond the own end, or less than before, is neither
#[test]
fn a_follower_takes_what_comes_next_from_its_leader_and_nothing_else() {
    let mut world = leader_with_a_tail();
    let session = world.nodes[1].replica.session();
    let records = |session, epoch, from, upto, confirmed| FetchAnswer::Records {
        session,
        epoch: Epoch(epoch),
        from: PhysicalOffset(from),
        upto: PhysicalOffset(upto),
        end: PhysicalOffset(upto),
        confirmed: PhysicalOffset(confirmed),
        round: 0,
    };
    let takes = |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::Take { .. }));
    assert!(world.nodes[1].replica.is_copying());
    for (from, answer) in [
        (1, records(session - 1, 1, 1, 2, 2)),
        (1, records(session + 1, 1, 1, 2, 2)),
        (1, records(session, 0, 1, 2, 2)),
        (3, records(session, 1, 1, 2, 2)),
        (2, records(session, 1, 1, 2, 2)),
    ] {
        let effects = told(&mut world, from, answer);
        assert!(effects.is_empty(), "{from} {answer:?}: {effects:?}");
    }
    // Beyond its own end nothing is confirmed here, and nothing is taken back.
    for confirmed in [u64::MAX, 0] {
        let effects = told(&mut world, 1, records(session, 1, 1, 1, confirmed));
        assert!(!takes(&effects));
        assert_eq!(world.nodes[1].replica.confirmed(), PhysicalOffset(1));
    }
    // A gap: nothing is taken, and it asks again from its end, in a new session.
    let effects = told(&mut world, 1, records(session, 1, 5, 9, 1));
    assert!(!takes(&effects) && effects.contains(&Effect::Restart), "{effects:?}");
    assert_eq!(world.nodes[1].replica.session(), session + 1);
}

/// proves: I32: who asks on and on and takes nothing is sent as much as may be held for it, and no more
#[test]
fn who_takes_nothing_is_not_sent_everything() {
    let answer_bytes = 1 << 20;
    let mut world = leader_answering(answer_bytes);
    // Far more than anybody wants to hold.
    let mut effects = Vec::new();
    let end = PhysicalOffset(1 << 40);
    world.nodes[0].replica.step(0, Input::Appended { end, epochs: Vec::new() }, &mut effects);
    let (mut sent, mut parked) = (0, 0);
    for _ in 0..1_000 {
        let request = Request::Fetch(fetch(&world, 1, 1));
        for answer in ask(&mut world, 2, request) {
            match answer {
                Answer::Fetch(FetchAnswer::Records { from, upto, .. }) => sent += upto.0 - from.0,
                other => panic!("{other:?}"),
            }
        }
        parked = parked.max(world.nodes[0].replica.progress()[&NodeId(2)].parked);
    }
    // A byte was sent before.
    assert_eq!(1 + sent, (16 << 20) + 4 * answer_bytes);
    assert!(parked <= 2, "{parked}");
    // What it acknowledges makes room again.
    let request = Request::Fetch(fetch(&world, 5_000_001, 0));
    let answers = ask(&mut world, 2, request);
    assert!(answers.iter().any(
        |answer| matches!(answer, Answer::Fetch(FetchAnswer::Records { from, upto, .. }) if upto > from)
    ));
}
