//! Producers and consumers on the hosts of a cluster.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use staticfire_storage::{QueueId, QueueOffset};
use staticfire_transport::memory::Network;
use staticfire_transport::{Call, CallError, Command, Connection, Service, Transport};

use super::{Found, Node, Place, Running};
use crate::client::{
    Client, ClientError, ClientOptions, Listener, Producer, ProducerOptions, PullConsumer,
    PullConsumerOptions, PushConsumer, PushConsumerOptions,
};
use crate::protocol::codes::request as code;
use crate::protocol::header::Header;
use crate::protocol::headers::CreateTopicRequest;
use crate::protocol::names::GroupName;

/// More virtual time than any answer takes.
const LONG: Duration = Duration::from_secs(120);

impl Running {
    /// A client on host `c<number>`, with the default options.
    #[must_use]
    pub fn client(&self, number: u8) -> Client {
        self.client_with(number, |_| {})
    }

    /// As [`Self::client`], with other options.
    pub fn client_with(&self, number: u8, change: impl FnOnce(&mut ClientOptions)) -> Client {
        let host = self.host(Node::Client(number));
        let mut options = ClientOptions::new(self.name_servers());
        change(&mut options);
        Client::new(Arc::new(host.clone()), Arc::new(host), options)
    }

    /// A producer of group `producers` on host `c<number>` that never tries a message twice, so that
    /// each is stored once at most.
    #[must_use]
    pub fn producer(&self, number: u8) -> Producer {
        self.producer_with(number, ProducerOptions { retries: 0, ..ProducerOptions::default() })
    }

    /// A producer of group `producers` on host `c<number>`.
    #[must_use]
    pub fn producer_with(&self, number: u8, options: ProducerOptions) -> Producer {
        Producer::new(&self.client(number), group("producers"), options)
    }

    /// A pull consumer of a group on host `c<number>`.
    ///
    /// # Panics
    /// The group's name or the options are not acceptable.
    #[must_use]
    pub fn pull_consumer(&self, number: u8, name: &str, options: PullConsumerOptions) -> PullConsumer {
        PullConsumer::new(&self.client(number), group(name), options).expect("the expression is acceptable")
    }

    /// A push consumer of a group on host `c<number>`; subscriptions are topics with expressions.
    ///
    /// # Panics
    /// A name is not acceptable.
    #[must_use]
    pub fn push_consumer(
        &self,
        number: u8,
        name: &str,
        options: PushConsumerOptions,
        subscriptions: &[(&str, &str)],
        listener: Arc<dyn Listener>,
    ) -> PushConsumer {
        let (client, subscriptions) = (self.client(number), subscriptions.iter().copied());
        let starting = PushConsumer::start(&client, group(name), options, subscriptions, listener);
        self.wait(starting).expect("names and expressions are acceptable")
    }

    /// The codes of all requests a node sent since the network's log was cleared, in order.
    #[must_use]
    pub fn requests_of(&self, node: Node) -> Vec<i32> {
        let log = self.network.log().into_iter().filter(|entry| entry.host.ip() == node.ip());
        log.filter_map(|entry| entry.event.sent_request()).collect()
    }

    /// A bare connection from host `c<number>`, for requests of one's own making.
    ///
    /// # Errors
    /// Nobody listens there, or nobody answers.
    pub fn peer(&self, number: u8, to: SocketAddr) -> std::io::Result<Peer> {
        let inbox = Arc::new(Inbox::default());
        let connecting = self.host(Node::Client(number)).connect(to, Arc::clone(&inbox) as Arc<dyn Service>);
        Ok(Peer { connection: self.wait(connecting)?, network: self.network.clone(), inbox })
    }

    /// Creates a topic with so many queues at every master, as an operator does.
    ///
    /// # Panics
    /// A broker cannot be reached or refuses.
    pub fn create_topic(&self, topic: &str, queues: i32) {
        let header = CreateTopicRequest {
            topic: topic.to_owned(),
            default_topic: Some("TBW102".to_owned()),
            read_queues: queues,
            write_queues: queues,
            permission: 6,
            filter_type: None,
            sys_flag: 0,
            order: false,
            attributes: None,
        };
        for master in self.masters() {
            let peer = self.peer(250, master.address()).expect("a broker listens");
            let answer = peer.ask(header.on(Command::request(code::UPDATE_AND_CREATE_TOPIC)));
            assert_eq!(answer.code, 0, "{:?}", answer.remark);
            peer.connection.close();
        }
    }

    /// The masters of all groups; see [`Self::leader`].
    #[must_use]
    pub fn masters(&self) -> Vec<Node> {
        (0..self.cluster.groups).map(|group| self.leader(group)).collect()
    }

    /// What the broker on a node is called.
    pub(super) fn broker_name(&self, node: Node) -> String {
        match (self.broker(node), node) {
            (Some(broker), _) => broker.options().name.clone(),
            (None, Node::Broker { group, .. }) => format!("broker-{group}"),
            _ => node.to_string(),
        }
    }

    /// Every message in the queues of a topic, at all masters that serve.
    ///
    /// # Panics
    /// A queue or a record cannot be read.
    #[must_use]
    pub fn stored(&self, topic: &str) -> Vec<Found> {
        self.masters().into_iter().flat_map(|master| self.stored_at(master, topic)).collect()
    }

    /// Every message in the queues of a topic at one broker, if that serves.
    ///
    /// # Panics
    /// A queue or a record cannot be read.
    #[must_use]
    pub fn stored_at(&self, node: Node, topic: &str) -> Vec<Found> {
        let (mut all, broker) = (Vec::new(), self.broker_name(node));
        for queue in self.store(node).into_iter().flat_map(|store| store.queues_of(topic)) {
            let mut at = queue.min();
            while at < queue.max() {
                let records = queue.read(at, 1000).unwrap_or_else(|error| panic!("{topic}: {error}"));
                assert!(!records.is_empty(), "{topic} {} gives nothing at {at}", queue.id());
                for record in records {
                    let place = place(&broker, queue.id(), record.queue_offset());
                    at = QueueOffset(record.queue_offset().0 + 1);
                    all.push(Found { place, physical: record.physical(), body: record.body() });
                }
            }
        }
        all
    }
}

fn place(broker: &str, queue: QueueId, offset: QueueOffset) -> Place {
    Place {
        broker: broker.to_owned(),
        queue: i32::try_from(queue.0).unwrap_or(i32::MAX),
        offset: i64::try_from(offset.0).unwrap_or(i64::MAX),
    }
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap_or_else(|error| panic!("{error}"))
}

/// What a peer said of its own accord.
#[derive(Default)]
struct Inbox(Mutex<VecDeque<Command>>);

impl Service for Inbox {
    fn turn(&self, _connection: &Connection, requests: &mut Vec<Command>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(requests.drain(..));
    }
}

/// A connection that speaks requests of one's own making.
pub struct Peer {
    /// The connection.
    pub connection: Connection,
    network: Network,
    inbox: Arc<Inbox>,
}

impl Peer {
    /// Asks and waits for the answer.
    ///
    /// # Panics
    /// There is none.
    pub fn ask(&self, request: Command) -> Command {
        self.wait(self.start(request)).unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// Asks; the answer is awaited later.
    #[must_use]
    pub fn start(&self, request: Command) -> Call {
        self.connection.call(request, LONG)
    }

    /// Says something that nobody answers.
    ///
    /// # Panics
    /// The connection is closed.
    pub fn tell(&self, request: Command) {
        self.connection.send(request).unwrap_or_else(|error| panic!("not sent: {error}"));
    }

    /// Waits for an answer.
    ///
    /// # Errors
    /// Why there is none.
    pub fn wait(&self, call: Call) -> Result<Command, CallError> {
        self.network.block_on(call, LONG).unwrap_or(Err(CallError::TimedOut))
    }

    /// The answer, if it is there after `time`.
    pub fn poll(&self, call: &mut Call, time: Duration) -> Option<Result<Command, CallError>> {
        self.network.block_on(call, time)
    }

    /// Takes what the other side said of its own accord since the last time.
    #[must_use]
    pub fn heard(&self) -> Vec<Command> {
        self.inbox.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Peer").field(&self.connection).finish()
    }
}

/// What a producer's answer says about a message.
pub(super) fn outcome(sent: &Result<crate::client::SendResult, ClientError>) -> super::Outcome {
    use crate::client::SendStatus;
    use crate::protocol::codes::response;
    use staticfire_transport::CallError as Error;

    match sent {
        Ok(sent) if sent.status == SendStatus::Ok => super::Outcome::Ok(Place {
            broker: sent.queue.broker_name.clone(),
            queue: sent.queue.queue_id,
            offset: sent.queue_offset,
        }),
        // Refused before anything was written, or never sent.
        Err(ClientError::Refused {
            code:
                response::SYSTEM_BUSY
                | response::SERVICE_NOT_AVAILABLE
                | response::MESSAGE_ILLEGAL
                | response::NO_PERMISSION
                | response::TOPIC_NOT_EXIST,
            ..
        })
        | Err(ClientError::NoAnswer { error: Error::Send(_), .. })
        | Err(
            ClientError::Name(_)
            | ClientError::Filter(_)
            | ClientError::Message(_)
            | ClientError::NameServers
            | ClientError::NoRoute { .. }
            | ClientError::NoQueue { .. }
            | ClientError::Unreachable { .. }
            | ClientError::Closed,
        ) => super::Outcome::Rejected,
        _ => super::Outcome::Unknown,
    }
}
