//! A body that says it is packed is unpacked within bounds or left as it is, whatever it holds; and what
//! was packed is unpacked as the same.
//!
//! The first byte of an input chooses how the body is packed; with its highest bit, the rest is packed first.

#![no_main]

use bytes::Bytes;
use flate2::read::ZlibEncoder;
use libfuzzer_sys::fuzz_target;
use lz4_flex::frame::FrameEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use staticfire::client::{ReceivedMessage, UNPACKED_MAX};
use staticfire::storage::message::sys_flag;
use staticfire::storage::record::{encode, seal};
use staticfire::storage::{Message, PhysicalOffset, QueueId, QueueOffset, Record, TopicName};
use std::io::{Read, Write};

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let kind_bits = i32::from(kind & 0b111);
    if kind >> 7 == 0 {
        let received = received(kind_bits, Bytes::copy_from_slice(rest));
        assert!(received.body().len() as u64 <= UNPACKED_MAX);
        assert!(!received.is_packed() || received.body() == rest);
        return;
    }
    let Some(packed) = pack(kind_bits, rest) else { return };
    let received = received(kind_bits, packed.into());
    assert!(!received.is_packed());
    assert_eq!(received.body(), rest);
});

/// The body as the client of another language packs it.
fn pack(kind: i32, body: &[u8]) -> Option<Vec<u8>> {
    let mut packed = Vec::new();
    match kind {
        0 | 3 => drop(ZlibEncoder::new(body, flate2::Compression::fast()).read_to_end(&mut packed).ok()?),
        1 => {
            let mut encoder = FrameEncoder::new(&mut packed);
            encoder.write_all(body).ok()?;
            encoder.finish().ok()?;
        }
        2 => packed = compress_to_vec(body, CompressionLevel::Fastest),
        _ => return None,
    }
    Some(packed)
}

/// A message of this body as it comes from a broker.
fn received(kind: i32, body: Bytes) -> ReceivedMessage {
    let mut message = Message::new(TopicName::new("orders").expect("a name"), QueueId(0), body);
    message.sys_flag = sys_flag::COMPRESSED | kind << 8;
    let mut bytes = Vec::new();
    let encoded = encode(&message, "127.0.0.1:10911".parse().expect("an address"), &mut bytes);
    seal(&mut bytes, encoded.expect("a small message"), QueueOffset(0), PhysicalOffset(0), 0);
    ReceivedMessage::new(Record::unverified(bytes.into()).expect("just made"), "broker-a")
}
