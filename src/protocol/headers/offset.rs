//! Consumer offsets and bounds of queues (remoting-protocol §9.6 and §9.7).

use crate::header;

header! {
    /// Asks for a group's offset (code 14).
    pub struct QueryOffsetRequest {
        /// The consumer group.
        "consumerGroup" consumer_group: String,
        /// The topic.
        "topic" topic: String,
        /// The queue.
        "queueId" queue_id: i32,
        /// May the answer be 0 when the group has no offset? Absent: yes.
        "setZeroIfNotFound" zero_if_not_found: bool = true,
    }
}

header! {
    /// One offset: of a group, or a bound of a queue.
    pub struct OffsetResponse {
        /// The offset.
        "offset" offset: i64,
    }
}

header! {
    /// Stores a group's offset: the next one to consume (code 15).
    pub struct UpdateOffsetRequest {
        /// The consumer group.
        "consumerGroup" consumer_group: String,
        /// The topic.
        "topic" topic: String,
        /// The queue.
        "queueId" queue_id: i32,
        /// The offset; some clients say -1 for none.
        "commitOffset" commit_offset: i64,
    }
}

header! {
    /// Asks for a bound of a queue (codes 30, 31 and 32).
    pub struct QueueRequest {
        /// The topic.
        "topic" topic: String,
        /// The queue.
        "queueId" queue_id: i32,
    }
}

header! {
    /// Asks for the offset at a point in time (code 29).
    pub struct SearchOffsetRequest {
        /// The topic.
        "topic" topic: String,
        /// The queue.
        "queueId" queue_id: i32,
        /// Milliseconds since the Unix epoch.
        "timestamp" timestamp_ms: i64,
        /// `LOWER` (or absent): the first message stored then or later; `UPPER`: the last one
        /// stored then or earlier.
        "boundaryType" boundary: Option<String>,
    }
}

header! {
    /// One store time.
    pub struct TimestampResponse {
        /// Milliseconds since the Unix epoch.
        "timestamp" timestamp_ms: i64,
    }
}

header! {
    /// Resets a group's offsets on one topic (code 222; 220 towards consumers).
    pub struct ResetOffsetRequest {
        /// The topic.
        "topic" topic: String,
        /// The consumer group.
        "group" group: String,
        /// Milliseconds since the Unix epoch; -1: to the end.
        "timestamp" timestamp_ms: i64,
        /// Also backwards?
        "isForce" force: bool,
        /// One queue only; below 0: all.
        "queueId" queue_id: i32 = -1,
        /// This very offset; below 0: by time.
        "offset" offset: i64 = -1_i64,
    }
}

header! {
    /// Asks for the offsets that the members of a group have (code 223).
    pub struct GroupStatusRequest {
        /// The topic.
        "topic" topic: String,
        /// The consumer group.
        "group" group: String,
        /// One member only, by its client id; empty: all.
        "clientAddr" client_id: Option<String>,
    }
}

header! {
    /// Copies the offsets of one group to another (code 314).
    pub struct CloneOffsetRequest {
        /// The group that has offsets.
        "srcGroup" source_group: String,
        /// The group that gets them.
        "destGroup" target_group: String,
        /// Only of this topic.
        "topic" topic: Option<String>,
        /// Also of topics that the first group's members, who are there, do not read.
        "offline" offline: bool = false,
    }
}

header! {
    /// Asks how far all groups are (code 317).
    pub struct BrokerConsumeStatsRequest {
        /// Only in topics whose messages are consumed in order?
        "isOrder" ordered: bool = false,
    }
}

header! {
    /// Asks for entries of a consume queue (code 321).
    pub struct QueueEntriesRequest {
        /// The topic.
        "topic" topic: String,
        /// The queue.
        "queueId" queue_id: i32,
        /// The first entry.
        "index" index: i64,
        /// How many.
        "count" count: i32,
        /// A group whose subscription is shown as well.
        "consumerGroup" consumer_group: Option<String>,
    }
}
