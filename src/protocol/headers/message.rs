//! Single messages and statistics (remoting-protocol §15.1 and §15.2).

use crate::header;

header! {
    /// Asks for one message (code 33).
    pub struct ViewMessageRequest {
        /// Its physical offset.
        "offset" offset: i64,
        /// Its topic.
        "topic" topic: Option<String>,
    }
}

header! {
    /// Asks for messages by key (code 12).
    pub struct QueryMessageRequest {
        /// The topic.
        "topic" topic: String,
        /// The key.
        "key" key: String,
        /// At most so many messages.
        "maxNum" messages_max: i32,
        /// Stored then or later, in milliseconds since the Unix epoch.
        "beginTimestamp" begin_ms: i64,
        /// Stored then or earlier, in milliseconds since the Unix epoch.
        "endTimestamp" end_ms: i64,
        /// The key is a message's unique key.
        "_UNIQUE_KEY_QUERY" unique_key: bool = false,
    }
}

header! {
    /// How fresh the key index is; also on code 22.
    pub struct QueryMessageResponse {
        /// Store time of the last message indexed, in milliseconds.
        "indexLastUpdateTimestamp" index_ms: i64,
        /// Physical offset of the last message indexed.
        "indexLastUpdatePhyoffset" index_offset: i64,
    }
}

header! {
    /// Asks for one statistic (code 315).
    pub struct StatisticRequest {
        /// Name of the statistic.
        "statsName" name: String,
        /// Its key.
        "statsKey" key: String,
    }
}

header! {
    /// Lets one client consume one message (code 309).
    pub struct ConsumeDirectlyRequest {
        /// The consumer group.
        "consumerGroup" consumer_group: String,
        /// The client.
        "clientId" client_id: Option<String>,
        /// Offset message id.
        "msgId" message_id: Option<String>,
        /// The broker's name.
        "brokerName" broker_name: Option<String>,
        /// The topic.
        "topic" topic: Option<String>,
    }
}
