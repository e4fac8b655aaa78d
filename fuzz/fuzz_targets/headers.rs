//! Any fields are a typed header or an error; and a header that was read is written so that it reads
//! back as the same.
//!
//! The first two bytes of an input choose the header; the rest is lines of `name=value`.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use staticfire::protocol::codes::request;
use staticfire::protocol::filter::TagFilter;
use staticfire::protocol::header::Header;
use staticfire::protocol::headers::{
    BrokerHeartbeatRequest, CreateTopicRequest, PullRequest, PullResponse, QueryMessageRequest,
    RegisterBrokerRequest, ResetOffsetRequest, SearchOffsetRequest, SendBackRequest, SendRequest,
    SendResponse, UnregisterClientRequest,
};
use staticfire::protocol::names::GroupName;
use staticfire::transport::ExtFields;

fuzz_target!(|input: &[u8]| {
    let Some((kind, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let fields: ExtFields = text.lines().filter_map(|line| line.split_once('=')).collect();
    match kind % 14 {
        0 => send(request::SEND_MESSAGE, &fields),
        1 => send(request::SEND_MESSAGE_V2, &fields),
        2 => again::<PullRequest>(&fields),
        3 => again::<PullResponse>(&fields),
        4 => again::<RegisterBrokerRequest>(&fields),
        5 => again::<BrokerHeartbeatRequest>(&fields),
        6 => again::<CreateTopicRequest>(&fields),
        7 => again::<SendBackRequest>(&fields),
        8 => again::<SendResponse>(&fields),
        9 => again::<ResetOffsetRequest>(&fields),
        10 => again::<SearchOffsetRequest>(&fields),
        11 => again::<QueryMessageRequest>(&fields),
        12 => again::<UnregisterClientRequest>(&fields),
        _ => drop((TagFilter::parse(text), GroupName::new(text))),
    }
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
