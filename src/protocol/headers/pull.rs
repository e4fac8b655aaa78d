//! Pulling (remoting-protocol §8).

use crate::header;

/// Bits of [`PullRequest::sys_flag`].
pub mod pull_flag {
    /// `commit_offset` is to be stored.
    pub const COMMIT: i32 = 1;
    /// The broker may hold the request until a message arrives.
    pub const SUSPEND: i32 = 2;
    /// The subscription in the header is to be used instead of the heartbeat's.
    pub const SUBSCRIPTION: i32 = 4;
    /// The application asks itself (code 361).
    pub const LITE: i32 = 16;
}

header! {
    /// Asks for messages of one queue (codes 11 and 361).
    pub struct PullRequest {
        /// The consumer group.
        "consumerGroup" consumer_group: String,
        /// The topic.
        "topic" topic: String,
        /// The queue.
        "queueId" queue_id: i32,
        /// The first offset wanted.
        "queueOffset" queue_offset: i64,
        /// At most so many messages.
        "maxMsgNums" messages_max: i32,
        /// See [`pull_flag`].
        "sysFlag" sys_flag: i32,
        /// The group's offset, stored when [`pull_flag::COMMIT`] is set; some clients say -1.
        "commitOffset" commit_offset: i64 = 0_i64,
        /// How long the broker may hold the request, in milliseconds.
        "suspendTimeoutMillis" suspend_ms: i64 = 0_i64,
        /// The expression, when [`pull_flag::SUBSCRIPTION`] is set.
        "subscription" subscription: Option<String>,
        /// Version of the subscription: when it was made, in milliseconds.
        "subVersion" subscription_version: i64 = 0_i64,
        /// `TAG` or `SQL92`; absent: `TAG`.
        "expressionType" expression_type: Option<String>,
        /// At most so many bytes, but always one message.
        "maxMsgBytes" bytes_max: Option<i32>,
    }
}

header! {
    /// Where to go on. All four offsets are there on 0, 19, 20 and 21.
    pub struct PullResponse {
        /// The broker to ask next: 0 is the master.
        "suggestWhichBrokerId" suggested_broker: i64,
        /// The offset to ask for next.
        "nextBeginOffset" next_offset: i64,
        /// The oldest offset of the queue.
        "minOffset" min_offset: i64,
        /// The next offset to be written.
        "maxOffset" max_offset: i64,
        /// Why reading is forbidden, on code 16.
        "forbiddenType" forbidden: Option<i32>,
    }
}
