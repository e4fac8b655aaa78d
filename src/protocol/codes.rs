//! Numbers of requests and responses (remoting-protocol §4 and §5).
//!
//! ```
//! use staticfire::protocol::codes::{request, response};
//!
//! assert_eq!(request::name(310), Some("SEND_MESSAGE_V2"));
//! assert_eq!(response::name(response::TOPIC_NOT_EXIST), Some("TOPIC_NOT_EXIST"));
//! ```

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$doc])* pub const $name: i32 = $value;)*

        /// The code's name, for logs and counters; `None` for a number that has none here.
        #[must_use]
        pub const fn name(code: i32) -> Option<&'static str> {
            match code {
                $($name => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}
/// What a request asks for.
pub mod request {
    codes! {
        /// Send one message, header with long names.
        SEND_MESSAGE = 10;
        /// Pull messages of one queue.
        PULL_MESSAGE = 11;
        /// Query messages by key.
        QUERY_MESSAGE = 12;
        /// Ask for a group's offset in one queue.
        QUERY_CONSUMER_OFFSET = 14;
        /// Store a group's offset in one queue.
        UPDATE_CONSUMER_OFFSET = 15;
        /// Create or change one topic.
        UPDATE_AND_CREATE_TOPIC = 17;
        /// Create or change several topics.
        UPDATE_AND_CREATE_TOPIC_LIST = 18;
        /// All topic configurations of a broker.
        GET_ALL_TOPIC_CONFIG = 21;
        /// Change the broker's configuration.
        UPDATE_BROKER_CONFIG = 25;
        /// Read the broker's configuration.
        GET_BROKER_CONFIG = 26;
        /// The broker's numbers, as a table of text.
        GET_BROKER_RUNTIME_INFO = 28;
        /// The queue offset at a point in time.
        SEARCH_OFFSET_BY_TIMESTAMP = 29;
        /// The next queue offset to be written.
        GET_MAX_OFFSET = 30;
        /// The oldest queue offset kept.
        GET_MIN_OFFSET = 31;
        /// Store time of the oldest message of a queue.
        GET_EARLIEST_MSG_STORE_TIME = 32;
        /// One message by its physical offset.
        VIEW_MESSAGE_BY_ID = 33;
        /// A client tells which groups it serves.
        HEART_BEAT = 34;
        /// A client leaves a group.
        UNREGISTER_CLIENT = 35;
        /// A consumer wants a message again later.
        CONSUMER_SEND_MSG_BACK = 36;
        /// Commit or roll back a prepared message.
        END_TRANSACTION = 37;
        /// The client ids of a consumer group.
        GET_CONSUMER_LIST_BY_GROUP = 38;
        /// The broker asks a producer about a prepared message.
        CHECK_TRANSACTION_STATE = 39;
        /// The broker tells a consumer that its group changed.
        NOTIFY_CONSUMER_IDS_CHANGED = 40;
        /// Lock queues for ordered consumption.
        LOCK_BATCH_MQ = 41;
        /// Unlock queues.
        UNLOCK_BATCH_MQ = 42;
        /// All consumer offsets of a broker.
        GET_ALL_CONSUMER_OFFSET = 43;
        /// All offsets of the delay queues.
        GET_ALL_DELAY_OFFSET = 45;
        /// Can the broker evaluate this subscription?
        CHECK_CLIENT_CONFIG = 46;
        /// Store a key-value setting in a name server.
        PUT_KV_CONFIG = 100;
        /// Read a key-value setting.
        GET_KV_CONFIG = 101;
        /// Remove a key-value setting.
        DELETE_KV_CONFIG = 102;
        /// A broker registers itself and its topics.
        REGISTER_BROKER = 103;
        /// A broker leaves.
        UNREGISTER_BROKER = 104;
        /// Where a topic lives.
        GET_ROUTEINFO_BY_TOPIC = 105;
        /// All clusters, broker names and addresses.
        GET_BROKER_CLUSTER_INFO = 106;
        /// Create or change a consumer group.
        UPDATE_AND_CREATE_SUBSCRIPTION_GROUP = 200;
        /// All consumer group configurations.
        GET_ALL_SUBSCRIPTION_GROUP_CONFIG = 201;
        /// Bounds of all queues of a topic.
        GET_TOPIC_STATS_INFO = 202;
        /// Connections of a consumer group.
        GET_CONSUMER_CONNECTION_LIST = 203;
        /// Connections of a producer group.
        GET_PRODUCER_CONNECTION_LIST = 204;
        /// Take the write permission from all topics of a broker.
        WIPE_WRITE_PERM_OF_BROKER = 205;
        /// All topic names.
        GET_ALL_TOPIC_LIST_FROM_NAME_SERVER = 206;
        /// Delete a consumer group.
        DELETE_SUBSCRIPTION_GROUP = 207;
        /// How far a group is behind.
        GET_CONSUME_STATS = 208;
        /// Delete a topic from a broker.
        DELETE_TOPIC_IN_BROKER = 215;
        /// Forget a topic's route.
        DELETE_TOPIC_IN_NAME_SERVER = 216;
        /// Register the queues of one topic.
        REGISTER_TOPIC_IN_NAME_SERVER = 217;
        /// All settings of one namespace.
        GET_KV_LIST_BY_NAMESPACE = 219;
        /// The broker gives a consumer new offsets.
        RESET_CONSUMER_CLIENT_OFFSET = 220;
        /// The broker asks a consumer for its offsets.
        GET_CONSUMER_STATUS_FROM_CLIENT = 221;
        /// Reset a group's offsets.
        INVOKE_BROKER_TO_RESET_OFFSET = 222;
        /// Offsets as the consumers see them.
        INVOKE_BROKER_TO_GET_CONSUMER_STATUS = 223;
        /// Topics of one cluster.
        GET_TOPICS_BY_CLUSTER = 224;
        /// Create or change several consumer groups.
        UPDATE_AND_CREATE_SUBSCRIPTION_GROUP_LIST = 225;
        /// Groups that consume a topic.
        QUERY_TOPIC_CONSUME_BY_WHO = 300;
        /// Time span between oldest and consumed message.
        QUERY_CONSUME_TIME_SPAN = 303;
        /// Cluster and broker names.
        GET_SYSTEM_TOPIC_LIST_FROM_NAME_SERVER = 304;
        /// System topics of a broker.
        GET_SYSTEM_TOPIC_LIST_FROM_BROKER = 305;
        /// Delete queue files that nothing needs.
        CLEAN_EXPIRED_CONSUME_QUEUE = 306;
        /// What a consumer is doing.
        GET_CONSUMER_RUNNING_INFO = 307;
        /// Let one client consume one message.
        CONSUME_MESSAGE_DIRECTLY = 309;
        /// Send one message, header with one-letter names.
        SEND_MESSAGE_V2 = 310;
        /// Topics with the unit flag.
        GET_UNIT_TOPIC_LIST = 311;
        /// Topics with the unit subscription flag.
        GET_HAS_UNIT_SUB_TOPIC_LIST = 312;
        /// Topics with the unit subscription flag but not the unit flag.
        GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST = 313;
        /// Copy the offsets of one group to another.
        CLONE_GROUP_OFFSET = 314;
        /// One statistic of a broker.
        VIEW_BROKER_STATS_DATA = 315;
        /// Delete queue files of unknown topics.
        CLEAN_UNUSED_TOPIC = 316;
        /// How far all groups are behind.
        GET_BROKER_CONSUME_STATS = 317;
        /// Change the name server's configuration.
        UPDATE_NAME_SERVER_CONFIG = 318;
        /// Read the name server's configuration.
        GET_NAME_SERVER_CONFIG = 319;
        /// Send a batch, header with one-letter names.
        SEND_BATCH_MESSAGE = 320;
        /// Entries of a consume queue.
        QUERY_CONSUME_QUEUE = 321;
        /// Is the broker's registration still current?
        QUERY_DATA_VERSION = 322;
        /// Answer a request message, long names.
        SEND_REPLY_MESSAGE = 324;
        /// Answer a request message, one-letter names.
        SEND_REPLY_MESSAGE_V2 = 325;
        /// The broker hands a reply to the requester.
        PUSH_REPLY_MESSAGE_TO_CLIENT = 326;
        /// Give the write permission back.
        ADD_WRITE_PERM_OF_BROKER = 327;
        /// All producers of a broker.
        GET_ALL_PRODUCER_INFO = 328;
        /// Delete expired commit log files.
        DELETE_EXPIRED_COMMIT_LOG = 329;
        /// Topics with offsets of a group.
        QUERY_TOPICS_BY_CONSUMER = 343;
        /// A group's subscription of a topic.
        QUERY_SUBSCRIPTION_BY_CONSUMER = 345;
        /// One topic configuration.
        GET_TOPIC_CONFIG = 351;
        /// One consumer group configuration.
        GET_SUBSCRIPTION_GROUP_CONFIG = 352;
        /// Pull messages of one queue, on behalf of an application that asks itself.
        LITE_PULL_MESSAGE = 361;
        /// Ask the broker to divide the queues of a topic.
        QUERY_ASSIGNMENT = 400;
        /// All addresses of one broker name.
        GET_BROKER_MEMBER_GROUP = 901;
        /// A broker is alive.
        BROKER_HEARTBEAT = 904;
        /// A name server tells brokers that their lowest id changed.
        NOTIFY_MIN_BROKER_ID_CHANGE = 905;
        /// What a node of a broker group is: our own.
        GET_NODE_STATUS = 21_001;
        /// Hand the leadership of a broker group to another node: our own.
        TRANSFER_LEADERSHIP = 21_002;
    }
}

/// What became of a request.
pub mod response {
    codes! {
        /// Done.
        SUCCESS = 0;
        /// Something failed; the remark says what.
        SYSTEM_ERROR = 1;
        /// Refused because of load; try again.
        SYSTEM_BUSY = 2;
        /// The request code is unknown here.
        REQUEST_CODE_NOT_SUPPORTED = 3;
        /// Stored, but the flush did not finish in time.
        FLUSH_DISK_TIMEOUT = 10;
        /// Stored, but no slave took part.
        SLAVE_NOT_AVAILABLE = 11;
        /// Stored, but the slaves did not confirm in time.
        FLUSH_SLAVE_TIMEOUT = 12;
        /// The message cannot be stored, now or ever.
        MESSAGE_ILLEGAL = 13;
        /// The store takes no messages now.
        SERVICE_NOT_AVAILABLE = 14;
        /// The peer's version is too old.
        VERSION_NOT_SUPPORTED = 15;
        /// Not allowed.
        NO_PERMISSION = 16;
        /// No such topic.
        TOPIC_NOT_EXIST = 17;
        /// The topic exists.
        TOPIC_EXIST_ALREADY = 18;
        /// No message at this offset yet.
        PULL_NOT_FOUND = 19;
        /// Nothing matched; go on at the next offset.
        PULL_RETRY_IMMEDIATELY = 20;
        /// The offset is outside the queue; go on at the given one.
        PULL_OFFSET_MOVED = 21;
        /// Nothing found.
        QUERY_NOT_FOUND = 22;
        /// The expression does not parse.
        SUBSCRIPTION_PARSE_FAILED = 23;
        /// The group has no such subscription.
        SUBSCRIPTION_NOT_EXIST = 24;
        /// The broker's subscription is older than the request's.
        SUBSCRIPTION_NOT_LATEST = 25;
        /// No such consumer group.
        SUBSCRIPTION_GROUP_NOT_EXIST = 26;
        /// No compiled filter.
        FILTER_DATA_NOT_EXIST = 27;
        /// The compiled filter is older than the request's.
        FILTER_DATA_NOT_LATEST = 28;
        /// A parameter is out of its range.
        INVALID_PARAMETER = 29;
        /// Commit the transaction.
        TRANSACTION_SHOULD_COMMIT = 200;
        /// Roll the transaction back.
        TRANSACTION_SHOULD_ROLLBACK = 201;
        /// The producer does not know yet.
        TRANSACTION_STATE_UNKNOWN = 202;
        /// The producer group does not match.
        TRANSACTION_STATE_GROUP_WRONG = 203;
        /// A required property is missing.
        NO_BUYER_ID = 204;
        /// Not of this unit.
        NOT_IN_CURRENT_UNIT = 205;
        /// No consumer of the group is connected.
        CONSUMER_NOT_ONLINE = 206;
        /// The consumer did not answer in time.
        CONSUME_MSG_TIMEOUT = 207;
        /// No such message.
        NO_MESSAGE = 208;
        /// Too many held requests.
        POLLING_FULL = 209;
        /// The held request ended without a message.
        POLLING_TIMEOUT = 210;
        /// No such broker.
        BROKER_NOT_EXIST = 211;
        /// The broker has not built its queues yet.
        BROKER_DISPATCH_NOT_COMPLETE = 212;
        /// The group consumes by broadcast.
        BROADCAST_CONSUMPTION = 213;
        /// Slow down.
        FLOW_CONTROL = 215;
        /// Not possible in this state.
        ILLEGAL_OPERATION = 604;
        /// The server is leaving; connect again.
        GO_AWAY = 1500;
    }
}
