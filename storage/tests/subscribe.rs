//! Following a queue: everything once, in order, as soon as it may be seen, until the end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use proptest::collection::vec;
use proptest::prelude::*;
use staticfire_storage::disk::{DiskFaults, SimulatedDisk};
use staticfire_storage::{
    Background, Durability, Message, QueueError, QueueId, QueueOffset, ReadError, Step, Store, StoreOptions,
    Subscription, SystemClock, TopicName,
};

const QUEUES: u32 = 2;

fn topic() -> TopicName {
    TopicName::new("orders").unwrap()
}

fn options(disk: &SimulatedDisk, background: Background) -> StoreOptions {
    let mut options = StoreOptions::on(disk.directory(), Arc::new(SystemClock));
    (options.segment_bytes, options.queue_file_entries) = (1024, 8);
    (options.retention.age_ms, options.retention.bytes) = (None, Some(2048));
    options.background = background;
    options
}

/// Remembers that it was woken.
#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Somebody who looks only when woken, as an executor would.
struct Follower {
    subscription: Subscription,
    bell: Arc<Bell>,
    queue: usize,
    seen: Vec<u64>,
    ended: bool,
}

impl Follower {
    fn new(store: &Store, queue: usize, from: QueueOffset) -> Self {
        let subscription = store.subscribe(&topic(), QueueId(queue as u32), from);
        let bell = Arc::new(Bell(AtomicBool::new(true)));
        Self { subscription, bell, queue, seen: Vec::new(), ended: false }
    }

    /// Takes what there is, if woken. What retention has removed is skipped as its error says.
    fn turn(&mut self) {
        if !self.bell.0.swap(false, Ordering::SeqCst) {
            return;
        }
        let waker = Waker::from(Arc::clone(&self.bell));
        loop {
            match self.subscription.poll_next(&mut Context::from_waker(&waker)) {
                Poll::Pending => return,
                Poll::Ready(None) => return self.ended = true,
                Poll::Ready(Some(Ok(record))) => {
                    self.seen.push(u64::from_be_bytes(*record.body().first_chunk().unwrap()));
                }
                Poll::Ready(Some(Err(error))) => {
                    let min = gone(&error, self.subscription.position());
                    self.subscription.seek(min);
                }
            }
        }
    }
}

/// The new minimum that an error names, when it says that `position` was removed.
fn gone(error: &ReadError, position: QueueOffset) -> QueueOffset {
    match error {
        ReadError::Queue(error) => match **error {
            QueueError::OutOfRange { from, min, .. } if from == position && from < min => min,
            ref other => panic!("{other}"),
        },
        other => panic!("{other}"),
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Append(usize),
    Write,
    StartFlush,
    Complete,
    Dispatch(usize),
    Retain,
    /// Follow a queue from its minimum, its maximum, or its first message on.
    Follow(usize, u8),
    Turn,
}

fn op() -> impl Strategy<Value = Op> {
    let queue = 0..QUEUES as usize;
    prop_oneof![
        6 => queue.clone().prop_map(Op::Append),
        2 => Just(Op::Write),
        2 => Just(Op::StartFlush),
        2 => Just(Op::Complete),
        3 => (1..6_usize).prop_map(Op::Dispatch),
        1 => Just(Op::Retain),
        1 => (queue, 0..3_u8).prop_map(|(queue, from)| Op::Follow(queue, from)),
        2 => Just(Op::Turn),
    ]
}

/// A store, what was appended to each queue, and who follows them.
struct World {
    disk: SimulatedDisk,
    store: Store,
    appended: [Vec<u64>; QUEUES as usize],
    followers: Vec<(Follower, QueueOffset)>,
}

impl World {
    fn new(durability: Durability) -> Self {
        let disk = SimulatedDisk::new(1).with_faults(DiskFaults::calm());
        let mut options = options(&disk, Background::Steps);
        options.durability = durability;
        let store = Store::open(options).unwrap();
        Self { disk, store, appended: Default::default(), followers: Vec::new() }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Append(queue) => {
                let number = self.appended[queue].len() as u64;
                let body = [&number.to_be_bytes()[..], &[b'x'; 100]].concat();
                self.store.append(&Message::new(topic(), QueueId(queue as u32), body)).unwrap();
                self.appended[queue].push(number);
            }
            Op::Write => self.store.step(Step::Write).unwrap(),
            Op::StartFlush => self.store.step(Step::Flush).unwrap(),
            Op::Complete => drop(self.disk.complete_all()),
            Op::Dispatch(count) => self.store.step(Step::Dispatch(count)).unwrap(),
            Op::Retain => self.store.retain().unwrap(),
            Op::Follow(queue, from) => {
                let found = self.store.queue("orders", QueueId(queue as u32));
                let from = match (from, found) {
                    (0, Some(queue)) => queue.min(),
                    (1, Some(queue)) => queue.max(),
                    _ => QueueOffset(0),
                };
                self.followers.push((Follower::new(&self.store, queue, from), from));
            }
            Op::Turn => {
                self.followers.iter_mut().for_each(|(follower, _)| follower.turn());
                self.check();
            }
        }
    }

    /// Whoever looked whenever woken has seen all that may be seen, once, in order.
    fn check(&self) {
        for (follower, from) in &self.followers {
            let queue = self.store.queue("orders", QueueId(follower.queue as u32)).unwrap();
            assert_eq!(follower.subscription.position(), queue.max().max(*from));
            let seen = &follower.seen;
            // Retention may have come in between, but only removes what is older than all that is left.
            assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
            let left = self.appended[follower.queue][..queue.max().0 as usize].iter();
            let left: Vec<u64> = left.copied().filter(|it| *it >= queue.min().0.max(from.0)).collect();
            assert!(seen.ends_with(&left), "{left:?} can be read, {seen:?} were seen");
        }
    }
}

fn cases() -> u32 {
    let times = std::env::var("STATICFIRE_CASES").ok().and_then(|cases| cases.parse().ok());
    times.unwrap_or(1) * 300
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    /// proves: I12, I13, I14, D2: a wake-up is never missed, nothing comes twice, early or out of order
    #[test]
    fn whoever_follows_a_queue_sees_what_is_confirmed_as_it_comes(ops in vec(op(), 1..120), written: bool) {
        let mut world = World::new(if written { Durability::Written } else { Durability::Flushed });
        for op in ops {
            world.apply(op);
        }
        world.apply(Op::Turn);
        // What was not confirmed yet becomes so at the close; then it ends.
        world.apply(Op::Dispatch(usize::MAX));
        world.store.clone().close().unwrap();
        world.apply(Op::Turn);
        prop_assert!(world.followers.iter().all(|(follower, _)| follower.ended));
    }
}

/// proves: C2, M8: a thread that blocks sees everything that other threads append, up to the close
#[test]
#[allow(clippy::disallowed_methods, reason = "followers that block need threads")]
fn a_thread_follows_what_others_append() {
    const EACH: u64 = 500;
    let folder = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::at(folder.path());
    (options.segment_bytes, options.durability) = (64 << 10, Durability::Written);
    let store = Store::open(options).unwrap();
    let message = Message::new(topic(), QueueId(0), vec![b'x'; 100]);
    let followers: Vec<_> = (0..2).map(|_| store.subscribe(&topic(), QueueId(0), QueueOffset(0))).collect();
    std::thread::scope(|scope| {
        let reading: Vec<_> = followers
            .into_iter()
            .map(|it| {
                scope.spawn(move || it.map(|record| record.unwrap().queue_offset().0).collect::<Vec<_>>())
            })
            .collect();
        let append = || (0..EACH).for_each(|_| drop(store.append(&message).unwrap()));
        let appending: Vec<_> = (0..2).map(|_| scope.spawn(append)).collect();
        appending.into_iter().for_each(|thread| thread.join().unwrap());
        store.clone().close().unwrap();
        for thread in reading {
            assert_eq!(thread.join().unwrap(), (0..2 * EACH).collect::<Vec<_>>());
        }
    });
}

/// proves: I12: whoever is overtaken by retention is told so, and where the queue begins
#[test]
fn what_retention_removed_is_out_of_range() {
    let disk = SimulatedDisk::new(1).completing_at_once();
    let store = Store::open(options(&disk, Background::Caller)).unwrap();
    let message = |n: u64| Message::new(topic(), QueueId(0), n.to_be_bytes().repeat(20));
    let mut follower = store.subscribe(&topic(), QueueId(0), QueueOffset(0));
    store.append(&message(0)).unwrap();
    store.append(&message(1)).unwrap();
    assert_eq!(follower.try_next().unwrap().unwrap().queue_offset(), QueueOffset(0));
    for n in 2..20 {
        store.append(&message(n)).unwrap();
    }
    store.retain().unwrap();
    let min = store.queue("orders", QueueId(0)).unwrap().min();
    assert!(min > QueueOffset(1));
    let error = follower.next().unwrap().unwrap_err();
    assert_eq!(gone(&error, QueueOffset(1)), min);
    assert_eq!(follower.position(), QueueOffset(1), "nothing is skipped unasked");
    follower.seek(min);
    assert_eq!(follower.next().unwrap().unwrap().queue_offset(), min);
}

/// proves: D6: nobody waits for what a failed store will never confirm
#[test]
fn a_failed_store_and_a_removed_topic_wake_whoever_waits() {
    let disk = SimulatedDisk::new(1);
    let store = Store::open(options(&disk, Background::Steps)).unwrap();
    let mut follower = Follower::new(&store, 0, QueueOffset(0));
    let mut other = store.subscribe(&TopicName::new("gone").unwrap(), QueueId(0), QueueOffset(0));
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    assert!(other.poll_next(&mut Context::from_waker(&waker)).is_pending());
    store.remove_topic(&TopicName::new("gone").unwrap()).unwrap();
    assert!(bell.0.load(Ordering::SeqCst) && other.next().is_none());
    follower.turn();
    store.append(&Message::new(topic(), QueueId(0), "lost")).unwrap();
    store.step(Step::Write).unwrap();
    store.step(Step::Flush).unwrap();
    assert!(!follower.bell.0.load(Ordering::SeqCst));
    assert!(disk.pending_syncs().iter().all(|sync| disk.fail(sync.ticket)));
    assert!(follower.bell.0.load(Ordering::SeqCst));
    assert!(matches!(follower.subscription.next(), Some(Err(ReadError::Failed(_)))));
}
