//! Answers that wait until the messages they speak of are as safe as the broker promises.
//!
//! One waiter covers everything a connection sent in one turn; its completion sends all answers
//! with one call, so one flush wakes a connection once. Whoever comes first, completion or time
//! limit, takes the answers; the other finds nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use staticfire_replication::Mode;
use staticfire_storage::{Outcome, PhysicalOffset};
use staticfire_transport::{Command, Connection, Monotonic};

use super::latency::Latency;
use super::shared::lock;
use crate::protocol::codes::response;

/// What an answer says when its message did not become safe in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// To a send: "stored, but not flushed" is a status of its own.
    Send,
    /// To anything else: a failure.
    Other,
}

/// The answers to one turn.
pub struct TurnAnswers {
    connection: Connection,
    began: Monotonic,
    latency: Arc<Latency>,
    end: PhysicalOffset,
    raised: Option<Mode>,
    answers: Mutex<Vec<(AnswerKind, Command)>>,
}

impl TurnAnswers {
    /// Answers for `connection`, all of success, about messages that came at `began` and end at `end`, and
    /// wait for `raised` if that is said.
    pub fn new(
        connection: &Connection,
        (began, latency): (Monotonic, &Arc<Latency>),
        (end, raised): (PhysicalOffset, Option<Mode>),
        answers: Vec<(AnswerKind, Command)>,
    ) -> Arc<Self> {
        let (connection, latency) = (connection.clone(), Arc::clone(latency));
        Arc::new(Self { connection, began, latency, end, raised, answers: Mutex::new(answers) })
    }

    /// Sends the answers, as the outcome makes them.
    pub fn settle(&self, outcome: Outcome) {
        let sends = self.send(|answer, _| match outcome {
            Outcome::Reached => {}
            Outcome::Unknown => failed(
                answer,
                response::SYSTEM_ERROR,
                "the broker lost its role; the message may or may not be stored",
            ),
            Outcome::Failed => failed(
                answer,
                response::SYSTEM_ERROR,
                "the disk failed; the message may or may not be stored",
            ),
        });
        if outcome == Outcome::Reached && sends > 0 {
            self.latency.acknowledged(self.began, sends);
        }
    }

    /// Where the last of the messages ends.
    pub fn end(&self) -> PhysicalOffset {
        self.end
    }

    /// What they wait for, when that is more than the broker's mode.
    pub fn raised(&self) -> Option<Mode> {
        self.raised
    }

    /// Sends the answers because their time is up: stored, and no more is known than this code says.
    pub fn time_out(&self, (code, remark): (i32, &str)) {
        let sends = self.send(|answer, kind| match kind {
            AnswerKind::Send => failed(answer, code, remark),
            AnswerKind::Other => failed(answer, response::SYSTEM_ERROR, remark),
        });
        self.latency.late(sends);
    }

    /// True until the answers were sent.
    pub fn is_waiting(&self) -> bool {
        !lock(&self.answers).is_empty()
    }

    /// How many of the answers were to sends and of success, before they were finished.
    fn send(&self, finish: impl Fn(&mut Command, AnswerKind)) -> u64 {
        let mut answers = std::mem::take(&mut *lock(&self.answers));
        if answers.is_empty() {
            return 0;
        }
        let is_stored_send = |(kind, answer): &&(AnswerKind, Command)| {
            *kind == AnswerKind::Send && answer.code == response::SUCCESS
        };
        let sends = answers.iter().filter(is_stored_send).count() as u64;
        answers.iter_mut().for_each(|(kind, answer)| finish(answer, *kind));
        let mut commands = answers.into_iter().map(|(_, answer)| answer).collect();
        // A peer that is gone does not need its answers.
        let _ = self.connection.send_all(&mut commands);
        sends
    }
}

fn failed(answer: &mut Command, code: i32, remark: &str) {
    answer.code = code;
    answer.remark = Some(remark.to_owned());
}

/// Turns whose answers wait, oldest first.
#[derive(Default)]
pub struct HeldAnswers(VecDeque<(Monotonic, Arc<TurnAnswers>)>);

impl HeldAnswers {
    /// Watches over a turn until `deadline`; deadlines do not decrease.
    pub fn push(&mut self, deadline: Monotonic, turn: Arc<TurnAnswers>) {
        while self.0.front().is_some_and(|(_, turn)| !turn.is_waiting()) {
            self.0.pop_front();
        }
        self.0.push_back((deadline, turn));
    }

    /// Takes the turns whose time is up.
    pub fn overdue(&mut self, now: Monotonic) -> Vec<Arc<TurnAnswers>> {
        self.0.retain(|(_, turn)| turn.is_waiting());
        let due = self.0.iter().take_while(|(deadline, _)| *deadline <= now).count();
        self.0.drain(..due).map(|(_, turn)| turn).collect()
    }
}
