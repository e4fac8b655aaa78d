//! One task for each name server: a connection, registered over it, heartbeats, changes.
//!
//! The first thing said on a connection is a full registration; after that a change of topics is
//! sent as it happens (only the changed ones, under the new data version), and everything again
//! every period, which is the heartbeat. A lost connection is the name server's sign that this
//! broker is gone, so it is opened again at once and then every second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use staticfire_transport::{CloseReason, Command, Connection, Monotonic, Service};

use super::shared::{Shared, read};
use super::signal::{Signal, until};
use super::topics::Revision;
use crate::protocol::body::{RegisterBrokerBody, TopicTable};
use crate::protocol::codes::{request, response};
use crate::protocol::header::Header;
use crate::protocol::headers::{BrokerRequest, RegisterBrokerRequest};
use crate::protocol::json;

/// How long a name server may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// Time between two attempts to reach a name server.
const RETRY_PERIOD: Duration = Duration::from_secs(1);
/// More changed topics than this are sent as a full registration.
const INCREMENT_MAX: usize = 1000;

/// What a name server may say to us: nothing we act on; but its close counts.
struct NameServerEnd {
    shared: Arc<Shared>,
    closed: AtomicBool,
}

impl Service for NameServerEnd {
    fn turn(&self, connection: &Connection, requests: &mut Vec<Command>) {
        for request in requests.drain(..).filter(|request| !request.is_one_way()) {
            let remark = format!(" request type {} not supported", request.code);
            let answer = request.answer(response::REQUEST_CODE_NOT_SUPPORTED).with_remark(remark);
            let _ = connection.send(answer);
        }
    }

    fn closed(&self, _connection: &Connection, _reason: &CloseReason) {
        self.closed.store(true, Ordering::Release);
        self.shared.changes.raise();
    }
}

/// What went wrong with a registration.
enum Failed {
    /// The name server does not answer, or the connection is gone.
    Connection,
    /// It answered with a refusal.
    Refused,
}

/// Keeps name server number `server` informed until the broker stops. `first` is raised after the
/// first attempt.
pub async fn keep_registered(shared: Arc<Shared>, server: usize, first: Arc<Signal>) {
    while !shared.is_stopping() {
        let endpoint = &shared.options.name_servers[server];
        let found = endpoint.resolve(&*shared.transport).await.unwrap_or_default();
        for to in found {
            if shared.is_stopping() {
                break;
            }
            serve(&shared, server, to, &first).await;
        }
        shared.settling.unreachable(server);
        first.raise();
        let again = shared.now() + RETRY_PERIOD;
        wait(&shared, again, |shared| shared.is_stopping()).await;
    }
}

/// One connection's life.
async fn serve(shared: &Arc<Shared>, server: usize, to: SocketAddr, first: &Signal) {
    let end = Arc::new(NameServerEnd { shared: Arc::clone(shared), closed: AtomicBool::new(false) });
    let connecting = shared.transport.connect(to, Arc::clone(&end) as Arc<dyn Service>);
    let Ok(connection) = connecting.await else { return };
    let mut known = None;
    loop {
        let standing = shared.standing();
        let next = match register(shared, &connection, standing, known).await {
            Ok(revision) => revision,
            // It lost what it knew of us: tell it everything.
            Err(Failed::Refused) if known.is_some() => {
                known = None;
                continue;
            }
            Err(Failed::Refused | Failed::Connection) => break,
        };
        shared.settling.registered(server, next);
        first.raise();
        let due = shared.now() + shared.options.registration_period;
        let is_over = |shared: &Shared| shared.is_stopping() || end.closed.load(Ordering::Acquire);
        let promoted = |shared: &Shared| shared.standing() != standing;
        let changed =
            |shared: &Shared| is_over(shared) || promoted(shared) || read(&shared.topics).revision() > next;
        let heartbeat = !wait(shared, due, changed).await;
        if is_over(shared) {
            break;
        }
        known = (!heartbeat && !promoted(shared)).then_some(next);
    }
    if shared.is_stopping() && connection.is_open() {
        unregister(shared, &connection).await;
    }
    connection.close();
}

/// Registers everything, or what changed after `known`. The revision it knows then.
async fn register(
    shared: &Shared,
    connection: &Connection,
    standing: (i64, i64),
    known: Option<Revision>,
) -> Result<Revision, Failed> {
    let (revision, topics) = {
        let topics = read(&shared.topics);
        let changed = topics.changed_since(known);
        let few = known.is_none() || changed.topic_config_table.len() <= INCREMENT_MAX;
        (topics.revision(), if few { changed } else { topics.table() })
    };
    if known.is_some() && topics.topic_config_table.is_empty() {
        return Ok(revision);
    }
    let answer = connection.call(registration(shared, standing, topics), ANSWER_WAIT).await;
    match answer {
        Ok(answer) if answer.code == response::SUCCESS => Ok(revision),
        Ok(_) => Err(Failed::Refused),
        Err(_) => Err(Failed::Connection),
    }
}

/// A broker of a group registers again as soon as it leads or no longer does. The name server lets nobody
/// take the leader's place who is of an older leadership period.
fn registration(shared: &Shared, (broker_id, period): (i64, i64), mut topics: TopicTable) -> Command {
    topics.data_version.state_version = topics.data_version.state_version.max(period);
    let options = &shared.options;
    let address = shared.address.to_string();
    // Replication has its own order; the field must be there.
    let beside = SocketAddr::new(shared.address.ip(), shared.address.port().wrapping_add(1));
    let ha_address = options.replication.as_ref().map_or(beside, |group| group.listen).to_string();
    let head = RegisterBrokerRequest {
        broker_name: options.name.clone(),
        broker_address: address,
        cluster_name: options.cluster.clone(),
        ha_address,
        broker_id,
        heartbeat_timeout_ms: None,
        acting_master: Some(false),
        compressed: false,
        body_crc: 0,
        zone: None,
    };
    let body = RegisterBrokerBody { topic_config_serialize_wrapper: topics, ..RegisterBrokerBody::default() };
    head.on(Command::request(request::REGISTER_BROKER)).with_body(json::to_bytes(&body))
}

async fn unregister(shared: &Shared, connection: &Connection) {
    let head = BrokerRequest {
        broker_name: shared.options.name.clone(),
        broker_address: shared.address.to_string(),
        cluster_name: shared.options.cluster.clone(),
        broker_id: shared.standing().0,
    };
    // Without an answer the closing connection says the same.
    let _ = connection.call(head.on(Command::request(request::UNREGISTER_BROKER)), ANSWER_WAIT).await;
}

/// Waits for `condition`, looked at whenever something changed, at most until `deadline`. True
/// when it holds.
pub async fn wait(shared: &Shared, deadline: Monotonic, condition: impl Fn(&Shared) -> bool) -> bool {
    let poll = |cx: &mut Context<'_>| {
        loop {
            let seen = shared.changes.count();
            if condition(shared) {
                return Poll::Ready(());
            }
            if shared.changes.poll_after(seen, cx).is_pending() {
                return Poll::Pending;
            }
        }
    };
    until(&*shared.runtime, deadline, poll).await.is_some()
}
