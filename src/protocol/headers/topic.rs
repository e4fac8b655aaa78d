//! Topics (remoting-protocol §15.1).

use crate::header;

header! {
    /// Creates or changes a topic (code 17).
    pub struct CreateTopicRequest {
        /// The topic.
        "topic" topic: String,
        /// The template; not used.
        "defaultTopic" default_topic: Option<String>,
        /// Queues consumers read.
        "readQueueNums" read_queues: i32,
        /// Queues producers write.
        "writeQueueNums" write_queues: i32,
        /// Permission bits: 4 read, 2 write, 1 inherit.
        "perm" permission: i32,
        /// `SINGLE_TAG` or `MULTI_TAG`.
        "topicFilterType" filter_type: Option<String>,
        /// The topic's system flag.
        "topicSysFlag" sys_flag: i32 = 0,
        /// Is it an order topic?
        "order" order: bool = false,
        /// Changes of attributes: `+key=value,-key`.
        "attributes" attributes: Option<String>,
    }
}

header! {
    /// Names a topic (codes 202, 215, 300 and 351).
    pub struct TopicRequest {
        /// The topic.
        "topic" topic: String,
    }
}
