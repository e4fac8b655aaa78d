//! A broker that does what a test says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use staticfire::protocol::body::{
    ConsumerIdList, HeartbeatData, RegisterBrokerBody, TopicConfig, TopicTable,
};
use staticfire::protocol::codes::{request as code, response};
use staticfire::protocol::header::{self, Header};
use staticfire::protocol::headers::{
    PullRequest, PullResponse, RegisterBrokerRequest, SendRequest, SendResponse, UpdateOffsetRequest,
};
use staticfire::protocol::json;
use staticfire::sim::{Cluster, Failure, Machine, Node, Running};
use staticfire::storage::record::{encode, seal};
use staticfire::storage::{Message, PhysicalOffset, QueueId, QueueOffset, TopicName};
use staticfire::transport::memory::Host;
use staticfire::transport::{Command, Connection, Listener, Runtime, Service, Transport};

/// What becomes of a send.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    Stored,
    Refused(i32),
    /// Success without the fields that belong to it.
    Nonsense,
    Never,
    Disconnect,
    Late(Duration),
}

/// Shared by the members of one scripted broker group.
#[derive(Clone, Default)]
pub struct Scripted(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    answers: Vec<Answer>,
    next: usize,
    advice: VecDeque<i64>,
    pulled_from: Vec<i64>,
    held: Option<(String, bytes::Bytes)>,
    sent: Vec<(String, String, i32)>,
    committed: Option<i64>,
    members: Vec<String>,
}

impl Scripted {
    /// Sends are answered by these in turn, and then from the beginning.
    pub fn new(answers: Vec<Answer>) -> Self {
        Self(Arc::new(Mutex::new(Script { answers, ..Script::default() })))
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().expect("no holder panics")
    }

    /// Pulls are answered with this advice in turn.
    pub fn advise(&self, advice: Vec<i64>) {
        self.script().advice = advice.into();
    }

    /// There is one message, at offset 0 of queue 0 of the topic.
    pub fn hold_message(&self, topic: &str, body: &str) {
        let name = TopicName::new(topic).expect("a topic's name");
        let message = Message::new(name, QueueId(0), body.to_owned()).with_property("UNIQ_KEY", "K");
        let mut bytes = Vec::new();
        let host = "10.0.2.0:10911".parse().expect("an address");
        let encoded = encode(&message, host, &mut bytes).expect("a small message");
        seal(&mut bytes, encoded, QueueOffset(0), PhysicalOffset(77), 0);
        self.script().held = Some((topic.to_owned(), bytes.into()));
    }

    /// Ids of the members that were pulled from.
    pub fn pulled_from(&self) -> Vec<i64> {
        self.script().pulled_from.clone()
    }

    /// Topic, properties and reconsume times of every send.
    pub fn sent(&self) -> Vec<(String, String, i32)> {
        self.script().sent.clone()
    }

    /// The offset of queue 0 that was stored last.
    pub fn committed(&self) -> Option<i64> {
        self.script().committed
    }

    /// A cluster with one name server, and this as the master and a slave of group `broker-0`.
    pub fn cluster(&self, seed: u64) -> Running {
        let scripted = self.clone();
        let role = move |machine: Machine| scripted.clone().start(machine);
        Cluster::seeded(seed).members(2).own_brokers(role).start()
    }

    /// Listens and registers topic `orders` with one queue.
    async fn start(self, machine: Machine) -> Result<(Listener, Connection), Failure> {
        let Node::Broker { id, .. } = machine.node() else { return Err("a broker's node".into()) };
        let at = machine.address();
        let service = Arc::new(Member { scripted: self, id: i64::from(id), host: machine.host().clone() });
        let listener = machine.host().listen(at, Arc::clone(&service) as Arc<dyn Service>)?;
        let header = RegisterBrokerRequest {
            broker_name: "broker-0".into(),
            broker_address: at.to_string(),
            cluster_name: "DefaultCluster".into(),
            ha_address: at.to_string(),
            broker_id: i64::from(id),
            heartbeat_timeout_ms: None,
            acting_master: None,
            compressed: false,
            body_crc: 0,
            zone: None,
        };
        let topics = ["orders", "%RETRY%pushed"].map(|name| (name.to_owned(), TopicConfig::new(name, 1, 6)));
        let table = TopicTable { topic_config_table: topics.into(), ..TopicTable::default() };
        let body =
            RegisterBrokerBody { topic_config_serialize_wrapper: table, ..RegisterBrokerBody::default() };
        let connection = machine.host().connect(machine.name_servers()[0], service).await?;
        let request = header.on(Command::request(code::REGISTER_BROKER)).with_body(json::to_bytes(&body));
        let answer = connection.call(request, Duration::from_secs(1)).await?;
        if answer.code == response::SUCCESS { Ok((listener, connection)) } else { Err("refused".into()) }
    }
}

struct Member {
    scripted: Scripted,
    id: i64,
    host: Host,
}

impl Service for Member {
    fn turn(&self, connection: &Connection, requests: &mut Vec<Command>) {
        for request in requests.drain(..) {
            if let Some(answer) = self.answer(connection, &request) {
                // A test that closes connections does so on purpose.
                let _ = connection.send(answer);
            }
        }
    }
}

impl Member {
    fn answer(&self, connection: &Connection, request: &Command) -> Option<Command> {
        let done = request.answer(response::SUCCESS);
        let mut script = self.scripted.script();
        match request.code {
            code::SEND_MESSAGE_V2 => {
                let send = SendRequest::read(request.code, &request.ext).expect("a send");
                let entry = (send.topic.to_owned(), send.properties.to_owned(), send.reconsume_times);
                script.sent.push(entry);
                let answer = script.answers[script.next % script.answers.len()];
                script.next += 1;
                drop(script);
                self.answer_send(connection, request, answer)
            }
            code::PULL_MESSAGE => {
                script.pulled_from.push(self.id);
                let pull: PullRequest = header::read(request).expect("a pull");
                let suggested_broker = script.advice.pop_front().unwrap_or(0);
                let held =
                    script.held.clone().filter(|(topic, _)| *topic == pull.topic && pull.queue_offset == 0);
                let (code, next_offset) = match held {
                    Some(_) => (response::SUCCESS, 1),
                    None => (response::PULL_RETRY_IMMEDIATELY, pull.queue_offset),
                };
                let offsets = PullResponse {
                    suggested_broker,
                    next_offset,
                    min_offset: 0,
                    max_offset: 1,
                    forbidden: None,
                };
                let answer = offsets.on(request.answer(code));
                let answer = answer.with_body(held.map_or_else(bytes::Bytes::new, |(_, record)| record));
                drop(script);
                self.later(connection, answer, Duration::from_millis(10));
                None
            }
            code::HEART_BEAT => {
                let data: HeartbeatData =
                    json::from_slice_tolerant(&request.body.to_bytes()).expect("a heartbeat");
                script.members = vec![data.client_id];
                Some(done)
            }
            code::GET_CONSUMER_LIST_BY_GROUP => {
                let list = ConsumerIdList { consumer_id_list: script.members.clone() };
                Some(done.with_body(json::to_bytes(&list)))
            }
            code::QUERY_CONSUMER_OFFSET => Some(done.with_ext("offset", 0)),
            code::UPDATE_CONSUMER_OFFSET => {
                let update: UpdateOffsetRequest = header::read(request).expect("an offset");
                if update.topic == "orders" {
                    script.committed = Some(update.commit_offset);
                }
                Some(done)
            }
            code::CONSUMER_SEND_MSG_BACK => Some(request.answer(response::SYSTEM_ERROR)),
            _ => Some(done),
        }
    }

    fn answer_send(&self, connection: &Connection, request: &Command, answer: Answer) -> Option<Command> {
        let stored = SendResponse {
            message_id: "0".repeat(32),
            queue_id: 0,
            queue_offset: 0,
            transaction_id: None,
            region: None,
            trace_on: None,
        };
        let stored = stored.on(request.answer(response::SUCCESS));
        match answer {
            Answer::Stored => Some(stored),
            Answer::Refused(code) => Some(request.answer(code)),
            Answer::Nonsense => Some(request.answer(response::SUCCESS)),
            Answer::Never => None,
            Answer::Disconnect => {
                connection.close();
                None
            }
            Answer::Late(after) => {
                self.later(connection, stored, after);
                None
            }
        }
    }

    fn later(&self, connection: &Connection, answer: Command, after: Duration) {
        let (host, connection) = (self.host.clone(), connection.clone());
        self.host.spawn(Box::pin(async move {
            host.sleep(after).await;
            // Nobody may be there any more.
            let _ = connection.send(answer);
        }));
    }
}
