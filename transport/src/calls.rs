//! The calls of one connection that wait for their answers, by opaque.

use std::collections::{BTreeMap, BTreeSet};
use std::task::{Poll, Waker};

use crate::{CallError, Command, Monotonic};

type Answer = Result<Command, CallError>;

/// Calls in flight and answers not fetched yet.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    waiting: BTreeMap<i32, Waiting>,
    deadlines: BTreeSet<(Monotonic, i32)>,
    next_opaque: i32,
}

#[derive(Debug)]
enum Waiting {
    For { deadline: Monotonic, waker: Option<Waker> },
    Answered(Answer),
}

impl Calls {
    /// Opens a call and returns the opaque of its request.
    pub(crate) fn open(&mut self, deadline: Monotonic) -> i32 {
        while self.waiting.contains_key(&self.next_opaque) {
            self.next_opaque = self.next_opaque.wrapping_add(1);
        }
        let opaque = self.next_opaque;
        self.next_opaque = opaque.wrapping_add(1);
        self.waiting.insert(opaque, Waiting::For { deadline, waker: None });
        self.deadlines.insert((deadline, opaque));
        opaque
    }

    /// The earliest deadline of a call in flight.
    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Hands over an answer. False if nobody waits for it: it is late, or was never asked for.
    pub(crate) fn answer(&mut self, answer: Command, woken: &mut Vec<Waker>) -> bool {
        let opaque = answer.opaque;
        self.complete(opaque, Ok(answer), woken)
    }

    /// Ends all calls whose deadline has come.
    pub(crate) fn expire(&mut self, now: Monotonic, woken: &mut Vec<Waker>) {
        while let Some((deadline, opaque)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.complete(opaque, Err(CallError::TimedOut), woken);
        }
    }

    /// Ends all calls, oldest deadline first.
    pub(crate) fn fail(&mut self, error: CallError, woken: &mut Vec<Waker>) {
        while let Some((_, opaque)) = self.deadlines.first().copied() {
            self.complete(opaque, Err(error), woken);
        }
    }

    fn complete(&mut self, opaque: i32, answer: Answer, woken: &mut Vec<Waker>) -> bool {
        let Some(waiting @ Waiting::For { .. }) = self.waiting.get_mut(&opaque) else { return false };
        let Waiting::For { deadline, waker } = std::mem::replace(waiting, Waiting::Answered(answer)) else {
            return false;
        };
        self.deadlines.remove(&(deadline, opaque));
        woken.extend(waker);
        true
    }

    /// The answer of a call, taken out, or `waker` is called when there is one.
    pub(crate) fn poll(&mut self, opaque: i32, new: &Waker) -> Poll<Answer> {
        match self.waiting.get_mut(&opaque) {
            Some(Waiting::For { waker, .. }) => {
                match waker {
                    Some(waker) => waker.clone_from(new),
                    None => *waker = Some(new.clone()),
                }
                Poll::Pending
            }
            _ => Poll::Ready(match self.waiting.remove(&opaque) {
                Some(Waiting::Answered(answer)) => answer,
                _ => Err(CallError::Closed),
            }),
        }
    }

    /// Drops a call, answered or not.
    pub(crate) fn forget(&mut self, opaque: i32) {
        if let Some(Waiting::For { deadline, .. }) = self.waiting.remove(&opaque) {
            self.deadlines.remove(&(deadline, opaque));
        }
    }

    /// Calls without an answer, and answers nobody fetched.
    #[cfg(test)]
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.deadlines.len(), self.waiting.len() - self.deadlines.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::new(Duration::from_secs(seconds))
    }

    fn answer(opaque: i32) -> Command {
        let mut request = Command::request(1);
        request.opaque = opaque;
        request.answer(0)
    }

    /// proves: B26, B27
    #[test]
    fn unknown_late_and_repeated_answers_are_ignored() {
        let (mut calls, mut woken) = (Calls::default(), Vec::new());
        let first = calls.open(at(3));
        let second = calls.open(at(2));
        assert_eq!(calls.deadline(), Some(at(2)));
        assert!(calls.poll(first, Waker::noop()).is_pending());
        assert!(!calls.answer(answer(99), &mut woken));
        calls.expire(at(2), &mut woken);
        assert!(!calls.answer(answer(second), &mut woken), "late");
        assert_eq!(calls.poll(second, Waker::noop()), Poll::Ready(Err(CallError::TimedOut)));
        assert!(calls.answer(answer(first), &mut woken));
        assert!(!calls.answer(answer(first), &mut woken), "twice");
        assert_eq!(woken.len(), 1);
        assert_eq!(calls.poll(first, Waker::noop()), Poll::Ready(Ok(answer(first))));
        assert_eq!(calls.len(), (0, 0));
    }

    #[test]
    fn a_dropped_call_leaves_nothing_behind() {
        let (mut calls, mut woken) = (Calls::default(), Vec::new());
        for answered in [false, true] {
            let opaque = calls.open(at(1));
            if answered {
                calls.answer(answer(opaque), &mut woken);
            }
            calls.forget(opaque);
            assert_eq!((calls.len(), calls.deadline()), ((0, 0), None));
        }
    }

    #[test]
    fn opaques_wrap_around_calls_in_flight() {
        let mut calls = Calls { next_opaque: i32::MAX, ..Calls::default() };
        assert_eq!((calls.open(at(1)), calls.open(at(1))), (i32::MAX, i32::MIN));
        calls.next_opaque = i32::MAX;
        assert_eq!(calls.open(at(1)), i32::MIN + 1);
    }

    #[test]
    fn closing_fails_every_call() {
        let (mut calls, mut woken) = (Calls::default(), Vec::new());
        let opaques: Vec<i32> = (0..10).map(|second| calls.open(at(second))).collect();
        calls.fail(CallError::Closed, &mut woken);
        for opaque in opaques {
            assert_eq!(calls.poll(opaque, Waker::noop()), Poll::Ready(Err(CallError::Closed)));
        }
        assert_eq!(calls.len(), (0, 0));
    }
}
