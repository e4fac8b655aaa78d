//! One turn of a connection: everything it sent since the last one, answered together.
//!
//! ```text
//!   requests ──┬─ sends ──> one append ──> one waiter ──> one send_all
//!              └─ others ─> answered one by one, in order
//! ```
//! Requests of one connection take effect in the order in which they came, as far as anybody can
//! tell: an offset committed before it is asked for, a message before the batch behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use staticfire_replication::Mode;
use staticfire_storage::{AppendError, Message, MessageId, Position, Receipt};
use staticfire_transport::{Command, Connection, Monotonic};

use super::held::{AnswerKind, TurnAnswers};
use super::node::is_for_leader;
use super::refusal::Refusal;
use super::send::{Content, Prepared, with_region};
use super::settling::Need;
use super::shared::{Shared, lock};
use crate::protocol::codes::{request, response};

/// What a handler has for a request.
pub enum Reply {
    /// The answer.
    Now(Command),
    /// Somebody answers later.
    Later,
}

/// The result of a handler.
pub type Handled = Result<Reply, Refusal>;

/// A turn in the making.
pub struct Turn<'a> {
    shared: &'a Arc<Shared>,
    connection: &'a Connection,
    began: Monotonic,
    answers: Vec<Command>,
    messages: Vec<Message>,
    pending: Vec<Pending>,
    /// For the leader of a group only.
    for_leader: Vec<Command>,
    /// Whether messages are taken in this turn.
    taken: Option<Result<(), Refusal>>,
}

/// One of [`Turn::messages`], not yet appended.
struct Pending {
    kind: AnswerKind,
    answer: Command,
    one_way: bool,
    need: Need,
    mode: Option<Mode>,
}

/// Answers to what was appended, for when the position is safe.
#[derive(Default)]
struct Appended {
    settled: Vec<(AnswerKind, Command)>,
    /// Those that also wait until the topics they speak of are settled.
    unsettled: Vec<(AnswerKind, Command)>,
    need: Need,
}

impl Appended {
    fn push(&mut self, shared: &Shared, kind: AnswerKind, answer: Command, need: Need) {
        if shared.settling.is_settled(need) {
            self.settled.push((kind, answer));
        } else {
            self.unsettled.push((kind, answer));
            self.need = self.need.and(need);
        }
    }
}

impl<'a> Turn<'a> {
    /// Begins a turn of `connection`.
    pub fn new(shared: &'a Arc<Shared>, connection: &'a Connection) -> Self {
        Self {
            shared,
            connection,
            began: shared.latency.begin(),
            answers: Vec::new(),
            messages: Vec::new(),
            pending: Vec::new(),
            for_leader: Vec::new(),
            taken: None,
        }
    }

    /// Takes the next request.
    pub fn take(&mut self, request: &Command) {
        match request.code {
            request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => {
                self.send(request)
            }
            request::CONSUMER_SEND_MSG_BACK => self.send_back(request),
            code if self.shared.node.is_some() && is_for_leader(code) => {
                self.for_leader.push(request.clone())
            }
            _ => match self.shared.handle(self.connection, request) {
                Ok(Reply::Now(answer)) => self.answer(request, answer),
                Ok(Reply::Later) => {}
                Err(refusal) => self.answer(request, refusal.answer(request)),
            },
        }
    }

    /// Appends what was sent and lets all answers go.
    pub fn finish(mut self) {
        self.append();
        if !self.answers.is_empty() {
            // A peer that is gone needs no answers.
            let _ = self.connection.send_all(&mut self.answers);
        }
        if !self.for_leader.is_empty() {
            self.shared.answer_as_leader(self.connection, self.for_leader);
        }
    }

    /// Refuses messages that this broker must not take.
    fn takes_messages(&mut self) -> Result<(), Refusal> {
        let shared = self.shared;
        self.taken.get_or_insert_with(|| shared.takes_messages()).clone()
    }

    fn answer(&mut self, request: &Command, answer: Command) {
        if !request.is_one_way() {
            self.answers.push(answer);
        }
    }

    fn send(&mut self, request: &Command) {
        let prepared =
            self.takes_messages().and_then(|()| self.shared.prepare_send(self.connection, request));
        let Prepared { content, answer, need, mode } = match prepared {
            Ok(prepared) => prepared,
            Err(refusal) => return self.answer(request, with_region(refusal.answer(request))),
        };
        match content {
            Content::Batch(messages) => self.append_batch(request, &messages, answer, (need, mode)),
            Content::Single(message) => {
                self.messages.push(message);
                let one_way = request.is_one_way();
                self.pending.push(Pending { kind: AnswerKind::Send, answer, one_way, need, mode });
            }
        }
    }

    fn send_back(&mut self, request: &Command) {
        let prepared = self.takes_messages().and_then(|()| self.shared.prepare_send_back(request));
        match prepared {
            Err(refusal) => self.answer(request, refusal.answer(request)),
            Ok(None) => self.answer(request, request.answer(response::SUCCESS)),
            Ok(Some((message, need))) => {
                self.messages.push(message);
                let answer = request.answer(response::SUCCESS);
                self.pending.push(Pending {
                    kind: AnswerKind::Other,
                    answer,
                    one_way: request.is_one_way(),
                    need,
                    mode: None,
                });
            }
        }
    }

    /// Appends the messages taken so far.
    fn append(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let results = self.shared.store.append_each(&self.messages);
        self.messages.clear();
        let mut appended = Appended::default();
        appended.settled.reserve(results.len());
        let mut raised: BTreeMap<Mode, (Position, Appended)> = BTreeMap::new();
        let mut last = None;
        let mut count = 0;
        for (pending, result) in std::mem::take(&mut self.pending).into_iter().zip(results) {
            let Pending { kind, mut answer, one_way, need, mode } = pending;
            match result {
                Ok(receipt) => {
                    count += 1;
                    let position = receipt.position();
                    let appended = match mode {
                        None => {
                            last = Some(position);
                            &mut appended
                        }
                        Some(mode) => {
                            let (last, appended) =
                                raised.entry(mode).or_insert_with(|| (position, Appended::default()));
                            *last = position;
                            appended
                        }
                    };
                    if !one_way {
                        complete(kind, &mut answer, &[receipt]);
                        appended.push(self.shared, kind, answer, need);
                    }
                }
                Err(_) if one_way => {}
                Err(error) => self.answers.push(refused(kind, answer, &error)),
            }
        }
        self.shared.counters.put.fetch_add(count, Ordering::Relaxed);
        if let Some(position) = last {
            self.answer_when_safe(position, None, appended);
        }
        for (mode, (position, appended)) in raised {
            self.answer_when_safe(position, Some(mode), appended);
        }
    }

    fn append_batch(
        &mut self,
        request: &Command,
        messages: &[Message],
        mut answer: Command,
        (need, mode): (Need, Option<Mode>),
    ) {
        self.append();
        match self.shared.store.append_batch(messages) {
            Err(error) => self.answer(request, refused(AnswerKind::Send, answer, &error)),
            Ok(receipts) => {
                self.shared.counters.put.fetch_add(receipts.len() as u64, Ordering::Relaxed);
                let Some(last) = receipts.last() else { return };
                if !request.is_one_way() {
                    let (kind, position) = (AnswerKind::Send, last.position());
                    complete(kind, &mut answer, &receipts);
                    let mut appended = Appended::default();
                    appended.push(self.shared, kind, answer, need);
                    self.answer_when_safe(position, mode, appended);
                }
            }
        }
    }

    /// Sends the answers when everything up to `position` is safe, and the topics they speak of
    /// are settled.
    fn answer_when_safe(&mut self, position: Position, raised: Option<Mode>, appended: Appended) {
        let Appended { settled, unsettled, need } = appended;
        if !settled.is_empty() {
            self.shared.answer_when_safe(self.connection, self.began, (position, raised), settled);
        }
        if unsettled.is_empty() {
            return;
        }
        let (shared, connection, began) = (Arc::clone(self.shared), self.connection.clone(), self.began);
        self.shared.spawn(async move {
            let mut answers = unsettled;
            if let Err(Refusal { code, remark }) = shared.settle(need).await {
                for (_, answer) in &mut answers {
                    answer.code = code;
                    answer.remark = Some(remark.clone());
                }
            }
            shared.answer_when_safe(&connection, began, (position, raised), answers);
        });
    }
}

impl Shared {
    /// Sends the answers when everything up to `position` is confirmed: as safe as this broker
    /// promises, which no client's `WAIT=false` lowers, or the topic if that is more. The sends came at `began`.
    fn answer_when_safe(
        &self,
        connection: &Connection,
        began: Monotonic,
        (position, raised): (Position, Option<Mode>),
        answers: Vec<(AnswerKind, Command)>,
    ) {
        let turn = TurnAnswers::new(connection, (began, &self.latency), (position.end, raised), answers);
        self.settle_when_safe(Arc::clone(&turn), position, raised);
        if turn.is_waiting() {
            lock(&self.held).push(self.now() + self.options.flush_wait, turn);
        }
    }
}

/// Adds where the messages went to the answer of a send.
fn complete(kind: AnswerKind, answer: &mut Command, receipts: &[Receipt]) {
    let (AnswerKind::Send, [first, rest @ ..]) = (kind, receipts) else { return };
    answer.ext.push("queueOffset", first.queue_offset());
    if rest.is_empty() {
        answer.ext.push("msgId", first.message_id());
    } else {
        let ids: Vec<String> =
            receipts.iter().map(Receipt::message_id).map(|id: MessageId| id.to_string()).collect();
        answer.ext.push("msgId", ids.join(","));
    }
}

/// Turns the answer of a message that was not stored into its refusal.
fn refused(kind: AnswerKind, answer: Command, error: &AppendError) -> Command {
    let Refusal { code, remark } = Refusal::from(error);
    let code = if kind == AnswerKind::Other && code != response::MESSAGE_ILLEGAL {
        response::SYSTEM_ERROR
    } else {
        code
    };
    Command { code, remark: Some(remark), ..answer }
}
