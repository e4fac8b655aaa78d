//! The broker's end of the transport: which handler answers which request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use staticfire_storage::Queue;
use staticfire_transport::{CloseReason, Command, Connection, ConnectionId, Service};

use super::refusal::Refusal;
use super::shared::{Shared, lock};
use super::turn::{Handled, Reply, Turn};
use crate::protocol::codes::{request, response};

/// Accepts connections from the moment the address is known, closes those that ask before the store
/// is open, and answers from then on.
#[derive(Default)]
pub struct Front {
    ready: OnceLock<Arc<Shared>>,
    connections: Arc<Mutex<BTreeMap<ConnectionId, Connection>>>,
}

impl Front {
    /// The open connections, shared with the broker.
    pub fn connections(&self) -> Arc<Mutex<BTreeMap<ConnectionId, Connection>>> {
        Arc::clone(&self.connections)
    }

    /// From now on requests are answered.
    pub fn open(&self, shared: Arc<Shared>) {
        // A second call would be a second broker on one listener; the first one stays.
        let _ = self.ready.set(shared);
    }
}

impl Service for Front {
    fn opened(&self, connection: &Connection) {
        lock(&self.connections).insert(connection.id(), connection.clone());
    }

    fn turn(&self, connection: &Connection, requests: &mut Vec<Command>) {
        let Some(shared) = self.ready.get() else {
            // Clients announce their groups when a connection opens and then every 30 s. A heartbeat
            // refused now would leave their consumers unknown, and without messages, for that long;
            // a connection that is gone they open again at once.
            requests.clear();
            connection.close();
            return;
        };
        if shared.is_stopping() {
            for request in requests.drain(..).filter(|request| !request.is_one_way()) {
                let refusal = Refusal::new(response::SERVICE_NOT_AVAILABLE, "the broker is stopping");
                let _ = connection.send(refusal.answer(&request));
            }
            return;
        }
        let mut turn = Turn::new(shared, connection);
        for request in requests.drain(..) {
            turn.take(&request);
        }
        turn.finish();
    }

    fn closed(&self, connection: &Connection, _reason: &CloseReason) {
        let id = connection.id();
        lock(&self.connections).remove(&id);
        let Some(shared) = self.ready.get() else { return };
        lock(&shared.polls).closed(id);
        let changed = lock(&shared.members).closed(id);
        changed.iter().for_each(|group| shared.tell_members(group));
    }
}

impl Shared {
    /// Everything but sends.
    pub fn handle(self: &Arc<Self>, connection: &Connection, request: &Command) -> Handled {
        match request.code {
            request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => self.pull(connection, request),
            request::HEART_BEAT => self.heartbeat(connection, request),
            request::UNREGISTER_CLIENT => self.unregister_client(connection, request),
            request::GET_CONSUMER_LIST_BY_GROUP => self.consumer_list(request),
            request::QUERY_CONSUMER_OFFSET => self.query_offset(request),
            request::UPDATE_CONSUMER_OFFSET => self.update_offset(request),
            request::GET_MAX_OFFSET => self.queue_bound(request, Queue::max),
            request::GET_MIN_OFFSET => self.queue_bound(request, Queue::min),
            request::SEARCH_OFFSET_BY_TIMESTAMP => self.search_offset(request),
            request::GET_EARLIEST_MSG_STORE_TIME => self.earliest_time(request),
            request::LOCK_BATCH_MQ => self.lock_queues(request),
            request::UNLOCK_BATCH_MQ => self.unlock_queues(request),
            request::VIEW_MESSAGE_BY_ID => self.view_message(request),
            request::QUERY_MESSAGE => self.query_by_key(request),
            request::GET_CONSUMER_RUNNING_INFO => self.relay_running_info(connection, request),
            request::INVOKE_BROKER_TO_GET_CONSUMER_STATUS => self.relay_status(connection, request),
            request::CONSUME_MESSAGE_DIRECTLY => self.relay_consume(connection, request),
            _ => self.administer(connection, request),
        }
    }

    fn administer(self: &Arc<Self>, connection: &Connection, request: &Command) -> Handled {
        match request.code {
            request::UPDATE_AND_CREATE_TOPIC => {
                self.create_topics(connection, request, Self::topic_of(request)?)
            }
            request::UPDATE_AND_CREATE_TOPIC_LIST => {
                self.create_topics(connection, request, Self::topics_of(request)?)
            }
            request::DELETE_TOPIC_IN_BROKER => self.delete_topic(connection, request),
            request::GET_ALL_TOPIC_CONFIG => self.all_topics(request),
            request::GET_TOPIC_CONFIG => self.topic_config(request),
            request::GET_TOPIC_STATS_INFO => self.topic_stats(request),
            request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER => self.system_topics(request),
            request::QUERY_TOPIC_CONSUME_BY_WHO => self.groups_of_topic(request),
            request::UPDATE_AND_CREATE_SUBSCRIPTION_GROUP => {
                self.create_groups(connection, request, Self::group_of(request)?)
            }
            request::UPDATE_AND_CREATE_SUBSCRIPTION_GROUP_LIST => {
                self.create_groups(connection, request, Self::groups_of(request)?)
            }
            request::DELETE_SUBSCRIPTION_GROUP => self.delete_group(connection, request),
            request::GET_ALL_SUBSCRIPTION_GROUP_CONFIG => self.all_groups(request),
            request::GET_SUBSCRIPTION_GROUP_CONFIG => self.group_config(request),
            request::GET_CONSUMER_CONNECTION_LIST => self.consumer_connections(request),
            request::GET_PRODUCER_CONNECTION_LIST => self.producer_connections(request),
            request::GET_ALL_PRODUCER_INFO => self.all_producers(request),
            request::CLEAN_EXPIRED_CONSUME_QUEUE | request::DELETE_EXPIRED_COMMIT_LOG => self.clean(request),
            request::GET_CONSUME_STATS => self.consume_stats(request),
            request::GET_BROKER_CONSUME_STATS => self.broker_consume_stats(request),
            request::QUERY_CONSUME_TIME_SPAN => self.consume_time_span(request),
            request::QUERY_CONSUME_QUEUE => self.queue_entries(request),
            request::QUERY_TOPICS_BY_CONSUMER => self.topics_of_group(request),
            request::QUERY_SUBSCRIPTION_BY_CONSUMER => self.subscription_of_group(request),
            request::CLONE_GROUP_OFFSET => self.clone_offsets(request),
            request::GET_ALL_CONSUMER_OFFSET => self.all_offsets(request),
            request::GET_ALL_DELAY_OFFSET => self.all_delay_offsets(request),
            request::INVOKE_BROKER_TO_RESET_OFFSET => self.reset_offsets(request),
            request::GET_BROKER_CONFIG => self.broker_config(request),
            request::GET_BROKER_RUNTIME_INFO => self.runtime_info(request),
            request::UPDATE_BROKER_CONFIG => {
                let remark = "the configuration cannot be changed from remote";
                Err(Refusal::new(response::NO_PERMISSION, remark))
            }
            request::GET_NODE_STATUS => self.tell_status(connection, request),
            request::TRANSFER_LEADERSHIP => self.begin_transfer(connection, request),
            request::CHECK_CLIENT_CONFIG => {
                // Only asked for expressions other than tags.
                Err(Refusal::system("The broker does not support consumer to filter message by SQL92"))
            }
            request::END_TRANSACTION => Err(Refusal::new(
                response::NO_PERMISSION,
                "this broker does not support transactional messages",
            )),
            code => Ok(Reply::Now(
                request
                    .answer(response::REQUEST_CODE_NOT_SUPPORTED)
                    .with_remark(format!(" request type {code} not supported")),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use staticfire_transport::{Call, ConnectionEnd, SendError};

    use super::*;

    /// A connection that must not be answered on.
    #[derive(Debug, Default)]
    struct Silent {
        closed: AtomicBool,
    }

    impl ConnectionEnd for Silent {
        fn id(&self) -> ConnectionId {
            ConnectionId(1)
        }

        fn local(&self) -> SocketAddr {
            SocketAddr::from((Ipv4Addr::LOCALHOST, 1))
        }

        fn peer(&self) -> SocketAddr {
            SocketAddr::from((Ipv4Addr::LOCALHOST, 2))
        }

        fn send(&self, command: Command) -> Result<(), SendError> {
            panic!("answered {command:?}")
        }

        fn send_all(&self, commands: &mut Vec<Command>) -> Result<(), SendError> {
            panic!("answered {commands:?}")
        }

        fn call(&self, request: Command, _limit: Duration) -> Call {
            panic!("called {request:?}")
        }

        fn close(&self) {
            self.closed.store(true, Ordering::Release);
        }

        fn is_open(&self) -> bool {
            !self.closed.load(Ordering::Acquire)
        }
    }

    /// A heartbeat refused while the broker starts would not be repeated for 30 s.
    #[test]
    fn a_request_before_the_store_is_open_closes_the_connection() {
        let end = Arc::new(Silent::default());
        let connection = Connection::new(Arc::clone(&end) as Arc<dyn ConnectionEnd>);
        let front = Front::default();
        front.opened(&connection);
        assert!(connection.is_open());
        let mut requests = vec![Command::request(request::HEART_BEAT), Command::one_way(request::HEART_BEAT)];
        front.turn(&connection, &mut requests);
        assert!(requests.is_empty() && !connection.is_open());
    }
}
