//! Against a model that is obviously right: of everything that was ever said, the last word counts.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn topic(number: u8) -> TopicName {
    TopicName::new(&format!("t{number}")).unwrap()
}

fn group(number: u8) -> GroupName {
    GroupName::new(&format!("g{number}")).unwrap()
}

fn row() -> impl Strategy<Value = Row> {
    let topics = || (0..3u8).prop_map(topic);
    let groups = || (0..3u8).prop_map(group);
    let offset = || (0..1000u64).prop_map(QueueOffset);
    prop_oneof![
        3 => (topics(), 1..9i32).prop_map(|(topic, queues)| {
            let config = TopicConfig::new(topic.as_str(), queues, 6);
            Row::Topic(topic, Arc::new(config))
        }),
        1 => topics().prop_map(Row::TopicGone),
        3 => (groups(), 0..9i32).prop_map(|(group, retries)| {
            let config = SubscriptionGroupConfig { retry_max_times: retries, ..SubscriptionGroupConfig::new(group.as_str()) };
            Row::Group(group, Arc::new(config))
        }),
        1 => groups().prop_map(Row::GroupGone),
        6 => (groups(), topics(), 0..2u32, offset())
            .prop_map(|(group, topic, queue, offset)| Row::Offset(group, topic, QueueId(queue), offset)),
        1 => topics().prop_map(Row::TopicForgotten),
        1 => groups().prop_map(Row::GroupForgotten),
        2 => (1..19u8, offset()).prop_map(|(level, offset)| Row::Delay(level, offset)),
    ]
}

/// What a leader does next.
#[derive(Clone, Debug)]
enum Act {
    Change(Vec<Row>),
    /// It begins a checkpoint of what was so, so many records ago.
    Begin(usize),
    /// It appends the next part of the one it began, if any.
    Part,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => prop::collection::vec(row(), 1..5).prop_map(Act::Change),
        1 => (0..4usize).prop_map(Act::Begin),
        4 => Just(Act::Part),
    ]
}

/// The records of the state queue, and the state after each of them as a node has it that runs.
struct History {
    bodies: Vec<Bytes>,
    states: Vec<ReplicatedState>,
}

impl History {
    fn of(acts: Vec<Act>) -> Self {
        let mut history = Self { bodies: Vec::new(), states: vec![ReplicatedState::default()] };
        let mut parts = Vec::new().into_iter();
        for act in acts {
            match act {
                Act::Change(rows) => record::changes(&rows).into_iter().for_each(|body| history.push(body)),
                Act::Begin(ago) => {
                    let of = history.states.len().saturating_sub(1 + ago);
                    let needed = PhysicalOffset(of as u64 * 100);
                    let numbers = vec![(topic(0), QueueId(0), QueueOffset(of as u64))];
                    parts = history.states[of].checkpoint_in(needed, numbers, 60).into_iter();
                }
                Act::Part => parts.next().into_iter().for_each(|body| history.push(body)),
            }
        }
        history
    }

    fn push(&mut self, body: Vec<u8>) {
        let mut state = self.states.last().unwrap().clone();
        state.apply(QueueOffset(self.bodies.len() as u64), &body).unwrap();
        self.states.push(state);
        self.bodies.push(body.into());
    }

    fn rebuild(&self, first: usize, end: usize) -> Result<(ReplicatedState, Numbers), StateError> {
        ReplicatedState::rebuild(QueueOffset(first as u64), QueueOffset(end as u64), |at| {
            let at = usize::try_from(at.0).unwrap();
            assert!((first..end).contains(&at), "record {at} is gone or not there yet");
            Ok(self.bodies[at].clone())
        })
    }

    /// What is so after `end` records, from the last word about everything.
    fn last_words(&self, end: usize) -> BTreeSet<String> {
        let mut said: Vec<Row> = Vec::new();
        for body in &self.bodies[..end] {
            let record = StateRecord::read(body).unwrap();
            said.extend(record.rows.into_iter().filter(|_| record.part.is_none()));
        }
        let is_so = |(at, row): &(usize, &Row)| {
            let later = &said[at + 1..];
            match row {
                Row::Topic(name, _) => !later.iter().any(|other| match other {
                    Row::Topic(of, _) | Row::TopicGone(of) => of == name,
                    _ => false,
                }),
                Row::Group(name, _) => !later.iter().any(|other| match other {
                    Row::Group(of, _) | Row::GroupGone(of) => of == name,
                    _ => false,
                }),
                Row::Offset(group, topic, queue, _) => !later.iter().any(|other| match other {
                    Row::Offset(g, t, q, _) => (g, t, q) == (group, topic, queue),
                    Row::TopicForgotten(of) => of == topic,
                    Row::GroupForgotten(of) => of == group,
                    _ => false,
                }),
                Row::Delay(level, _) => {
                    !later.iter().any(|other| matches!(other, Row::Delay(of, _) if of == level))
                }
                _ => false,
            }
        };
        said.iter().enumerate().filter(is_so).map(|(_, row)| format!("{row:?}")).collect()
    }
}

fn cases() -> u32 {
    let factor = std::env::var("STATICFIRE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    300 * factor
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// proves: I30, I42
    #[test]
    fn the_state_is_the_last_word_about_everything(acts in prop::collection::vec(act(), 0..40)) {
        let history = History::of(acts);
        for (end, state) in history.states.iter().enumerate() {
            let rows: BTreeSet<String> = state.rows().map(|row| format!("{row:?}")).collect();
            prop_assert_eq!(rows, history.last_words(end));
        }
    }

    /// proves: I30, I42: wherever the log was cut behind, and whatever was removed in front, as far as it may
    #[test]
    fn whoever_starts_has_what_runs(acts in prop::collection::vec(act(), 0..40), first: prop::sample::Index, end: prop::sample::Index) {
        let history = History::of(acts);
        let end = end.index(history.states.len());
        let first = first.index(end + 1);
        let running = &history.states[end];
        let whole = running.checkpoint.whole.map(|(part, _)| part);
        match history.rebuild(first, end) {
            Ok((state, numbers)) => {
                prop_assert_eq!(&state, running);
                // An earlier one may do where the records that the newest needs are gone.
                if let Some(part) = whole.filter(|part| part.as_of.0 >= first as u64) {
                    prop_assert_eq!(numbers, vec![(topic(0), QueueId(0), part.as_of)]);
                }
            }
            Err(StateError::Incomplete { .. }) => {
                let needed = whole.map_or(0, |part| part.as_of.0);
                prop_assert!(first as u64 > needed, "records from {} on are there, {} would do", first, needed);
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    /// proves: B56
    #[test]
    fn a_record_reads_back_as_it_was_written(rows in prop::collection::vec(row(), 0..20), part: Option<(u64, u64, u8)>) {
        let part = part.map(|(as_of, from, part)| Part {
            as_of: QueueOffset(as_of),
            needed_from: PhysicalOffset(from),
            part: part.into(),
            parts: 256,
        });
        let record = StateRecord { part, rows };
        let body = record.body();
        prop_assert_eq!(StateRecord::read(&body).unwrap(), record);
        for cut in 0..body.len() {
            let _ = StateRecord::read(&body[..cut]);
        }
    }

    /// proves: B56
    #[test]
    fn any_bytes_are_a_record_or_an_error(mut body: Vec<u8>, honest: bool) {
        if honest && body.len() > 2 {
            (body[0], body[1]) = (1, 0);
        }
        if let Ok(record) = StateRecord::read(&body) {
            prop_assert_eq!(StateRecord::read(&record.body()).unwrap(), record);
        }
    }
}

fn offset(next: u64) -> Act {
    Act::Change(vec![Row::Offset(group(0), topic(0), QueueId(0), QueueOffset(next))])
}

/// A leader dies after the first part of its checkpoint; the next one writes its own.
///
/// proves: I30
#[test]
fn half_a_checkpoint_counts_for_nothing() {
    let mut acts: Vec<Act> = (0..5).map(|n| Act::Change(vec![Row::Delay(n, QueueOffset(1))])).collect();
    acts.extend([Act::Begin(0), Act::Part, offset(7)]);
    let mut history = History::of(acts.clone());
    assert!(history.states[7].checkpoint.whole.is_none() && history.states[7].wants_checkpoint());
    assert!(matches!(history.rebuild(1, 7), Err(StateError::Incomplete { first: QueueOffset(1) })));
    acts.push(Act::Begin(0));
    acts.extend(vec![Act::Part; 9]);
    history = History::of(acts);
    let end = history.bodies.len();
    assert!(!history.states[end].wants_checkpoint());
    assert_eq!(history.states[end].needed_from(), PhysicalOffset(700));
    assert_eq!(history.rebuild(7, end).unwrap().0, history.states[end]);
}

/// proves: I30
#[test]
fn a_record_out_of_order_or_of_a_newer_program_is_not_applied() {
    let mut state = ReplicatedState::default();
    let body = record::changes(&[Row::Delay(1, QueueOffset(5))]).remove(0);
    assert!(matches!(state.apply(QueueOffset(1), &body), Err(StateError::Order { .. })));
    for newer in [vec![2, 0], vec![1, 2], vec![1, 0, 200]] {
        let refused = state.apply(QueueOffset(0), &newer);
        assert!(matches!(refused, Err(StateError::Format { at: QueueOffset(0), .. })), "{newer:?}");
    }
    assert_eq!(state, ReplicatedState::default());
    state.apply(QueueOffset(0), &body).unwrap();
    assert_eq!(state.next(), QueueOffset(1));
}
