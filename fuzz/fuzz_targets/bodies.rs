//! Any bytes are a body or an error; and a body that was read is written so that it reads back as the
//! same, by a strict parser too.
//!
//! The first byte of an input chooses the kind of body.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use staticfire::protocol::body::*;
use staticfire::protocol::json;

/// Runs [`again`] with the body of this number, in the order in which they stand here.
macro_rules! choose {
    ($kind:expr, $text:expr; $($body:ident)*) => {{
        let each: &[fn(&[u8])] = &[$(again::<$body>),*];
        each[usize::from($kind) % each.len()]($text);
    }};
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, text)) = input.split_first() else { return };
    match kind {
        // A registration, perhaps packed; of a broker too old to wrap its topics.
        0 => return drop(RegisterBrokerBody::read(text, 479)),
        1 => return drop(RegisterBrokerBody::read(text, 36)),
        // Their floating-point numbers may lose a last digit.
        2 => return drop(json::from_slice_tolerant::<TopicStatsTable>(text)),
        3 => return drop(json::from_slice_tolerant::<ConsumeStats>(text)),
        4 => return drop(json::from_slice_tolerant::<BrokerConsumeStats>(text)),
        _ => {}
    }
    choose!(kind - 5, text;
        HeartbeatData TopicRouteData ClusterInfo TopicTable ConsumerOffsetTable ResetOffsetBody LockRequest
        SubscriptionGroupConfig LockResponse ConsumerIdList KvTable TopicConfigList SubscriptionGroupTable
        ConsumerConnection DelayOffsetTable AssignmentRequest SubscriptionData ConsumerData ProducerData
        MessageQueue TopicConfig DataVersion TopicList TopicOffset NodeStatus OtherNode SubscriptionGroupList
        GroupList ClientConnection ProducerConnection ProducerInfo ProducerTable QueueAssignment
        AssignmentResponse OffsetWrapper ConsumerStatusBody GroupSubscription QueueTimeSpan QueueTimeSpans
        QueueEntryData QueueEntries BrokerData QueueData BrokerMemberGroup MemberGroupBody GroupStatusBody);
});

fn again<T: DeserializeOwned + Serialize + PartialEq + Debug>(text: &[u8]) {
    let Ok(body) = json::from_slice_tolerant::<T>(text) else { return };
    let written = json::to_bytes(&body);
    assert!(serde_json::from_slice::<serde_json::Value>(&written).is_ok(), "{written:?}");
    assert_eq!(json::from_slice_tolerant::<T>(&written).as_ref(), Ok(&body));
}
