//! Any fields are a typed header or an error; and a header that was read is written so that it reads
//! back as the same.
//!
//! The first byte of an input chooses the header; the rest is lines of `name=value`.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use staticfire::protocol::codes::request;
use staticfire::protocol::header::Header;
use staticfire::protocol::headers::*;
use staticfire::transport::ExtFields;

/// Runs [`again`] with the header of this number, in the order in which they stand here.
macro_rules! choose {
    ($kind:expr, $fields:expr; $($header:ident)*) => {{
        let each: &[fn(&ExtFields)] = &[$(again::<$header>),*];
        each[usize::from($kind) % each.len()]($fields);
    }};
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let fields: ExtFields = text.lines().filter_map(|line| line.split_once('=')).collect();
    match kind {
        0 => return send(request::SEND_MESSAGE, &fields),
        1 => return send(request::SEND_MESSAGE_V2, &fields),
        _ => {}
    }
    choose!(kind - 2, &fields;
        PullRequest PullResponse RegisterBrokerRequest BrokerHeartbeatRequest CreateTopicRequest SendBackRequest
        SendResponse ResetOffsetRequest SearchOffsetRequest QueryMessageRequest UnregisterClientRequest
        ConsumerGroupRequest ProducerGroupRequest GroupRequest GroupTopicRequest DeleteGroupRequest
        ConsumeStatsRequest RunningInfoRequest ViewMessageRequest QueryMessageResponse StatisticRequest
        ConsumeDirectlyRequest QueryOffsetRequest OffsetResponse UpdateOffsetRequest QueueRequest
        TimestampResponse CloneOffsetRequest BrokerConsumeStatsRequest QueueEntriesRequest
        RegisterBrokerResponse BrokerRequest QueryDataVersionResponse MemberGroupRequest BrokerNameRequest
        WipeWriteResponse AddWriteResponse RouteRequest NameServerTopicRequest ClusterRequest
        PutSettingRequest SettingRequest SettingResponse NamespaceRequest TopicRequest GroupStatusRequest);
});

fn send(code: i32, fields: &ExtFields) {
    let Ok(header) = SendRequest::read(code, fields) else { return };
    let mut written = ExtFields::new();
    header.write(code, &mut written);
    assert_eq!(SendRequest::read(code, &written).as_ref(), Ok(&header));
}

fn again<H: Header + PartialEq + Debug>(fields: &ExtFields) {
    let Ok(header) = H::read(fields) else { return };
    let mut written = ExtFields::new();
    header.write(&mut written);
    assert_eq!(H::read(&written).as_ref(), Ok(&header));
}
