//! Groups, their members and their statistics (remoting-protocol §9.1 to §9.5 and §15.3).

use crate::header;

header! {
    /// A client leaves its groups (code 35). An empty text counts as absent.
    pub struct UnregisterClientRequest {
        /// The client.
        "clientID" client_id: String,
        /// Its producer group.
        "producerGroup" producer_group: Option<String>,
        /// Its consumer group.
        "consumerGroup" consumer_group: Option<String>,
    }
}

header! {
    /// Names a consumer group (codes 38, 40, 203).
    pub struct ConsumerGroupRequest {
        /// The consumer group.
        "consumerGroup" consumer_group: String,
    }
}

header! {
    /// Names a producer group (code 204).
    pub struct ProducerGroupRequest {
        /// The producer group.
        "producerGroup" producer_group: String,
    }
}

header! {
    /// Names a group (codes 343 and 352).
    pub struct GroupRequest {
        /// The group.
        "group" group: String,
    }
}

header! {
    /// Names a group and a topic (codes 303 and 345).
    pub struct GroupTopicRequest {
        /// The group.
        "group" group: String,
        /// The topic.
        "topic" topic: Option<String>,
    }
}

header! {
    /// Deletes a consumer group (code 207).
    pub struct DeleteGroupRequest {
        /// The group.
        "groupName" group: String,
        /// Also its offsets?
        "cleanOffset" clean_offset: bool = false,
    }
}

header! {
    /// Asks how far a group is (code 208).
    pub struct ConsumeStatsRequest {
        /// The consumer group.
        "consumerGroup" consumer_group: String,
        /// Only this topic.
        "topic" topic: Option<String>,
        /// Only these topics, joined by `;`.
        "topicList" topics: Option<String>,
    }
}

header! {
    /// Asks what a consumer is doing (code 307).
    pub struct RunningInfoRequest {
        /// The consumer group.
        "consumerGroup" consumer_group: String,
        /// The client.
        "clientId" client_id: String,
        /// With the stacks of its threads?
        "jstackEnable" stacks: bool = false,
    }
}
