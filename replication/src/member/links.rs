//! Connections between the nodes: one of each to each other, opened when there is something to ask.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use staticfire_transport::{Command, Connection, HeaderEncoding, Service};

use super::{Asked, Event, Inner};
use crate::wire::{self, Envelope, Message};
use crate::{Answer, Input, NodeId, Request};

/// The request code of the replication port.
const REPLICATION: i32 = 20_001;
/// How long an answer may take: a fetch is answered within a heartbeat.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// Requests kept while a connection is being opened.
const QUEUED_MAX: usize = 16;

pub(crate) struct Links {
    peers: BTreeMap<NodeId, SocketAddr>,
    links: Mutex<BTreeMap<NodeId, Link>>,
}

enum Link {
    Opening(Vec<Request>),
    Open(Connection),
}

impl Links {
    pub(crate) fn new(peers: &BTreeMap<NodeId, SocketAddr>) -> Self {
        Self { peers: peers.clone(), links: Mutex::default() }
    }

    pub(crate) fn close(&self) {
        for link in std::mem::take(&mut *self.lock()).into_values() {
            if let Link::Open(connection) = link {
                connection.close();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What arrives on the replication port, and on connections opened from here.
pub(crate) struct ReplicationService(pub(crate) Weak<Inner>);

impl Service for ReplicationService {
    fn turn(&self, connection: &Connection, requests: &mut Vec<Command>) {
        let Some(inner) = self.0.upgrade().filter(|inner| !inner.is_stopped()) else {
            requests.clear();
            return connection.close();
        };
        for request in requests.drain(..) {
            let Some((from, message)) = inner.read(&request) else { return connection.close() };
            inner.push(Event::Asked(from, message, connection.clone(), request));
        }
    }
}

impl Inner {
    /// A request of a member to this node; anything else closes the connection (B48).
    fn read(&self, command: &Command) -> Option<(NodeId, Request)> {
        if command.code != REPLICATION {
            return None;
        }
        let (envelope, _) = wire::decode(&command.body.to_bytes()).ok()?;
        match envelope {
            Envelope { group, from, to, message: Message::Request(request) }
                if group == self.group && to == self.me() && self.options.peers.contains_key(&from) =>
            {
                Some((from, request))
            }
            _ => None,
        }
    }

    fn me(&self) -> NodeId {
        self.options.settings.group.me()
    }

    fn envelope(&self, to: NodeId, message: Message) -> Envelope {
        Envelope { group: self.group.clone(), from: self.me(), to, message }
    }

    /// Answers a request with a message and the records that belong to it.
    pub(crate) fn write_answer(&self, asked: &Asked, answer: Answer, records: Vec<bytes::Bytes>) {
        let body = wire::encode(&self.envelope(asked.from, Message::Answer(answer)), records);
        // A peer that is gone asks again.
        let _ = asked.connection.send(asked.command.answer(0).with_body(body));
    }

    /// Asks another node; the answer, or that there will be none, comes as an event.
    pub(crate) fn ask(&self, to: NodeId, request: Request) {
        let mut links = self.links.lock();
        if matches!(request, Request::TakeOver { .. })
            && let Some(Link::Open(old)) = links.get(&to)
        {
            // It is said once, and the machine over there may have failed since the connection was opened.
            old.close();
            links.remove(&to);
        }
        match links.get_mut(&to) {
            Some(Link::Open(connection)) if connection.is_open() => {
                let connection = connection.clone();
                drop(links);
                self.call(&connection, to, request);
            }
            Some(Link::Opening(queued)) => {
                if queued.len() == QUEUED_MAX {
                    queued.remove(0);
                }
                queued.push(request);
            }
            _ => {
                links.insert(to, Link::Opening(vec![request]));
                drop(links);
                self.open(to);
            }
        }
    }

    fn open(&self, to: NodeId) {
        let Some(address) = self.links.peers.get(&to) else { return };
        let service = Arc::new(ReplicationService(self.weak()));
        let connecting = self.transport.connect(*address, service);
        let inner = self.weak();
        self.runtime.spawn(Box::pin(async move {
            let connected = connecting.await;
            let Some(inner) = inner.upgrade() else { return };
            let mut links = inner.links.lock();
            let Some(Link::Opening(queued)) = links.remove(&to) else { return };
            match connected {
                Ok(connection) if !inner.is_stopped() => {
                    links.insert(to, Link::Open(connection.clone()));
                    drop(links);
                    queued.into_iter().for_each(|request| inner.call(&connection, to, request));
                }
                Ok(connection) => connection.close(),
                Err(_) => {
                    drop(links);
                    inner.push(Event::Input(Input::Unanswered { from: to }));
                }
            }
        }));
    }

    fn call(&self, connection: &Connection, to: NodeId, request: Request) {
        let body = wire::encode(&self.envelope(to, Message::Request(request)), Vec::new());
        let mut command = Command::request(REPLICATION).with_body(body);
        command.encoding = HeaderEncoding::Binary;
        let call = connection.call(command, ANSWER_WAIT);
        let (inner, connection) = (self.weak(), connection.clone());
        self.runtime.spawn(Box::pin(async move {
            let answer = call.await;
            let Some(inner) = inner.upgrade() else { return };
            let body = answer.ok().map(|answer| answer.body.to_bytes());
            let event = match body.as_ref().map(wire::decode) {
                Some(Ok((envelope, records))) if envelope.from == to && envelope.group == inner.group => {
                    match envelope.message {
                        Message::Answer(answer) => Some(Event::Answered(to, answer, records)),
                        Message::Request(_) => None,
                    }
                }
                _ => None,
            };
            inner.push(event.unwrap_or_else(|| {
                // What is not answered, or not as it should be, ends the connection: nothing that
                // comes later on it could be told from what was asked.
                connection.close();
                Event::Input(Input::Unanswered { from: to })
            }));
        }));
    }
}
