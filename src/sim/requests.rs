//! Requests as clients write them, for a [`Peer`](super::Peer).

use bytes::Bytes;
use staticfire_transport::Command;

use crate::protocol::codes::request as code;
use crate::protocol::header::Header;
use crate::protocol::headers::{PullRequest, SendRequest};

/// A send of one message to a queue.
#[must_use]
pub fn send(topic: &str, queue: i32, body: impl Into<Bytes>) -> Command {
    let head = SendRequest {
        producer_group: "P",
        topic,
        default_topic: "TBW102",
        default_topic_queues: 4,
        queue_id: queue,
        sys_flag: 0,
        born_ms: 1000,
        flag: 0,
        properties: "",
        reconsume_times: 0,
        unit_mode: false,
        reconsume_times_max: None,
        batch: false,
        broker_name: None,
    };
    let mut command = Command::request(code::SEND_MESSAGE_V2).with_body(body.into());
    head.write(code::SEND_MESSAGE_V2, &mut command.ext);
    command
}

/// A pull of up to 32 messages of queue 0 for group `C`, which names its subscription; a broker that
/// has nothing keeps it for `hold_ms` milliseconds.
#[must_use]
pub fn pull(topic: &str, offset: i64, hold_ms: i64) -> Command {
    PullRequest {
        consumer_group: "C".into(),
        topic: topic.into(),
        queue_id: 0,
        queue_offset: offset,
        messages_max: 32,
        sys_flag: if hold_ms > 0 { 6 } else { 4 },
        commit_offset: 0,
        suspend_ms: hold_ms,
        subscription: Some("*".into()),
        subscription_version: 0,
        expression_type: None,
        bytes_max: None,
    }
    .on(Command::request(code::PULL_MESSAGE))
}
