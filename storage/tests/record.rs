//! What the record format promises for any message and against any bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use bytes::Bytes;
use proptest::prelude::*;
use staticfire_storage::batch::{self, BatchError, BatchPart};
use staticfire_storage::message::BODY_LEN_MAX;
use staticfire_storage::properties::{self, PROPERTIES_LEN_MAX};
use staticfire_storage::record::{self, Scanned, next_at};
use staticfire_storage::{
    Message, MessageError, PhysicalOffset, QueueId, QueueOffset, Record, RecordCrc, RecordError, TopicName,
    blank,
};

const AT: PhysicalOffset = PhysicalOffset(0x0123_4567_89AB);

fn store_host() -> SocketAddr {
    "10.0.0.1:10911".parse().unwrap()
}

fn sealed(message: &Message, store_host: SocketAddr) -> Vec<u8> {
    let mut out = b"before".to_vec();
    let encoded = record::encode(message, store_host, &mut out).unwrap();
    let record = &mut out[6..];
    record::seal(record, encoded, QueueOffset(7), AT, 1_700_000_000_000);
    assert_eq!(record.len(), encoded.len() as usize);
    out.split_off(6)
}

fn parse(bytes: impl Into<Bytes>) -> Result<Record, RecordError> {
    Record::parse(bytes.into(), AT, RecordCrc::Required)
}

fn small() -> Message {
    Message::new(TopicName::new("orders").unwrap(), QueueId(2), "paid")
        .born(1_699_999_999_999, "192.168.1.10:51234".parse().unwrap())
        .with_property("TAGS", "TagA")
        .with_property("KEYS", "1 2")
}

fn cases(normal: u32) -> ProptestConfig {
    let factor = std::env::var("STATICFIRE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(normal * factor) }
}

fn any_topic() -> impl Strategy<Value = TopicName> {
    let name = prop_oneof!["[%|A-Za-z0-9_-]{1,127}", "%RETRY%[A-Za-z0-9_-]{1,248}", "%DLQ%[a-z]{120,130}"];
    name.prop_map(|name| TopicName::new(&name).unwrap())
}

fn any_properties() -> impl Strategy<Value = Bytes> {
    let pairs = prop::collection::vec(("[a-zA-Z#_]{1,12}", "\\PC{1,20}"), 0..6);
    let crc = prop_oneof![Just(""), Just("__CRC32#\x015\x02"), Just("__CRC32#\x011234567890\x02")];
    (crc, pairs, any::<bool>()).prop_map(|(crc, pairs, ends)| {
        let mut encoded = crc.as_bytes().to_vec();
        for (name, value) in pairs {
            properties::append(&mut encoded, &name, &value).unwrap();
        }
        if !ends {
            encoded.pop();
        }
        encoded.into()
    })
}

prop_compose! {
    fn any_message()(
        topic in any_topic(),
        queue in 0..=i32::MAX as u32,
        numbers in any::<(i32, i32, i64, i32, i64)>(),
        born_host in any::<SocketAddr>(),
        body in prop::collection::vec(any::<u8>(), 0..300),
        properties in any_properties(),
    ) -> Message {
        let (flag, sys_flag, born_ms, reconsume_times, prepared_offset) = numbers;
        Message {
            topic, queue: QueueId(queue), flag, sys_flag, born_ms, born_host, reconsume_times,
            prepared_offset, body: body.into(), properties,
        }
    }
}

proptest! {
    #![proptest_config(cases(400))]

    /// proves: I62 for the record format
    #[test]
    fn what_is_read_is_what_was_written(message in any_message(), store_host in any::<SocketAddr>()) {
        let bytes = Bytes::from(sealed(&message, store_host));
        let read = parse(bytes.clone()).unwrap();
        let v6_bits = 0x30;
        let canonical = |host: SocketAddr| SocketAddr::new(host.ip().to_canonical(), host.port());
        prop_assert_eq!(read.topic(), message.topic.as_str());
        prop_assert_eq!((read.queue(), read.queue_offset()), (message.queue, QueueOffset(7)));
        prop_assert_eq!((read.flag(), read.sys_flag() | v6_bits), (message.flag, message.sys_flag | v6_bits));
        prop_assert_eq!((read.born_ms(), read.store_ms()), (message.born_ms, 1_700_000_000_000));
        prop_assert_eq!(read.born_host(), canonical(message.born_host));
        prop_assert_eq!(read.store_host(), canonical(store_host));
        prop_assert_eq!(read.reconsume_times(), message.reconsume_times);
        prop_assert_eq!(read.prepared_offset(), message.prepared_offset);
        prop_assert_eq!(read.body(), &message.body);
        let pairs = |m: &[u8]| -> Vec<(Vec<u8>, Vec<u8>)> {
            let all = properties::Properties::new(m).pairs();
            all.filter(|(n, _)| *n != b"__CRC32#").map(|(n, v)| (n.to_vec(), v.to_vec())).collect()
        };
        prop_assert_eq!(pairs(read.properties().as_bytes()), pairs(&message.properties));
        prop_assert!(read.record_crc().is_some());
        // Storing it again gives the same bytes: the record is a fixed point.
        prop_assert_eq!(sealed(&read.to_message().unwrap(), store_host), bytes);
    }

    /// proves: B63 for one record
    #[test]
    fn a_record_cut_anywhere_is_an_error(message in any_message()) {
        let bytes = Bytes::from(sealed(&message, store_host()));
        for len in 0..bytes.len() {
            prop_assert!(parse(bytes.slice(..len)).is_err(), "cut to {}", len);
            prop_assert!(Record::unverified(bytes.slice(..len)).is_err(), "cut to {}", len);
        }
    }

    /// proves: I6, B65: bytes nobody wrote are an error or, without checksums, at worst a record
    #[test]
    fn arbitrary_bytes_never_panic(
        message in any_message(),
        changes in prop::collection::vec((0usize..120, any::<u8>()), 0..8),
        noise in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut bytes = sealed(&message, store_host());
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        for bytes in [Bytes::from(bytes), Bytes::from(noise)] {
            let _ = next_at(&bytes);
            let _ = batch::decode(&bytes);
            if let Ok(record) = Record::unverified(bytes) {
                touch_every_accessor(&record);
            }
        }
    }

    /// proves: B36
    #[test]
    fn a_changed_batch_is_refused_or_read_within_its_bounds(
        count in 1usize..5,
        at in 0usize..1000,
        byte in any::<u8>(),
        cut in 0usize..1000,
    ) {
        let mut bytes = batch_of(count);
        let len = bytes.len();
        prop_assert_eq!(batch::decode(&bytes.clone().into()).unwrap().len(), count);
        let cut = Bytes::copy_from_slice(&bytes[..len - 1 - cut % len]);
        if let Ok(parts) = batch::decode(&cut) {
            prop_assert!(parts.len() < count, "a cut at a boundary is a shorter batch");
        }
        bytes[at % len] = byte;
        if let Ok(parts) = batch::decode(&bytes.into()) {
            prop_assert!(parts.iter().map(|part| 22 + part.body.len() + part.properties.len()).sum::<usize>() == len);
        }
    }
}

fn touch_every_accessor(r: &Record) {
    let _ = (r.len(), r.magic(), r.body_crc(), r.record_crc(), r.queue(), r.flag(), r.queue_offset());
    let _ = (r.physical(), r.sys_flag(), r.born_ms(), r.born_host(), r.store_ms(), r.store_host());
    let _ = (r.reconsume_times(), r.prepared_offset(), r.body(), r.topic().len(), r.properties().is_empty());
    let _ = (r.tag(), r.property("KEYS"), r.transaction(), r.message_id().to_string(), r.to_message());
    let _ = (staticfire_storage::tag::tags_code(r), format!("{r:?}"));
}

fn batch_of(count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in 0..count {
        let part = BatchPart {
            flag: n as i32,
            body: vec![b'b'; n * 3].into(),
            properties: Bytes::from_static(b"a\x01b\x02"),
        };
        batch::append(&mut bytes, &part).unwrap();
    }
    bytes
}

/// proves: I6, Z7, B64: header, position, topic, properties and the checksum itself are covered
#[test]
fn every_single_bit_flip_of_a_record_is_found() {
    let long = Message::new(TopicName::new(&format!("%RETRY%{}", "g".repeat(150))).unwrap(), QueueId(2), "x")
        .born(5, "[2001:db8::1]:1".parse().unwrap());
    for message in [small(), long, Message::new(TopicName::new("t").unwrap(), QueueId(0), "")] {
        let bytes = sealed(&message, store_host());
        assert!(parse(bytes.clone()).is_ok());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = parse(flipped);
            assert!(found.is_err(), "bit {bit}: {found:?}");
        }
    }
}

/// proves: I6: all bursts of up to 16 bits, wherever they start
#[test]
fn every_short_burst_is_found() {
    let bytes = sealed(&small(), store_host());
    let patterns = [0b11u32, 0b101, 0b1111_1111, 0xFFFF, 0x8001, 0xA5A5];
    for start in 0..(bytes.len() - 4) * 8 {
        for pattern in patterns {
            let mut changed = bytes.clone();
            for bit in (0..32).filter(|bit| pattern >> bit & 1 == 1) {
                changed[(start + bit) / 8] ^= 1 << ((start + bit) % 8);
            }
            assert!(parse(changed).is_err(), "pattern {pattern:x} at bit {start}");
        }
    }
}

/// proves: I6, Z8
#[test]
fn a_record_at_another_position_is_stale() {
    let bytes = Bytes::from(sealed(&small(), store_host()));
    for at in [0, AT.0 - 1, AT.0 + 1, AT.0 + (1 << 30)] {
        let found = Record::parse(bytes.clone(), PhysicalOffset(at), RecordCrc::Required);
        assert_eq!(found, Err(RecordError::Position { found: AT, expected: PhysicalOffset(at) }));
    }
}

/// proves: D1: past the offset from which every record carries a CRC, one without is damage
#[test]
fn a_record_without_its_crc_is_damage_where_one_is_required() {
    let mut bytes = sealed(&small(), store_host());
    let end = bytes.len();
    bytes[end - 20] = b'x';
    assert_eq!(parse(bytes.clone()), Err(RecordError::RecordCrcMissing));
    assert!(Record::parse(bytes.into(), AT, RecordCrc::IfPresent).is_ok(), "it could be a foreign record");
}

/// proves: store-format 3.6
#[test]
fn a_crc_property_from_outside_is_replaced() {
    for (incoming, stored) in [
        (&b"__CRC32#\x011234567890\x02"[..], &b""[..]),
        (b"a\x01b\x02__CRC32#\x011\x02c\x01d", b"a\x01b\x02c\x01d\x02"),
        (b"a\x01#b", b"a\x01#b\x02"),
        (b"a\x01b", b"a\x01b\x02"),
        (b"", b""),
    ] {
        let message = Message { properties: Bytes::from_static(incoming), ..small() };
        let read = parse(sealed(&message, store_host())).unwrap();
        let properties = read.properties().as_bytes();
        assert_eq!(&properties[..properties.len() - 20], stored);
        assert_eq!(properties.windows(8).filter(|window| *window == b"__CRC32#").count(), 1);
    }
}

/// proves: store-format 3.9, 3.4
#[test]
fn the_limits_are_exact_and_a_refusal_leaves_nothing_behind() {
    let try_encode = |message: &Message| {
        let mut out = b"kept".to_vec();
        let result = record::encode(message, store_host(), &mut out).map(|encoded| encoded.len());
        assert!(result.is_ok() || out == b"kept");
        result
    };
    let with_body = |len: usize| Message { body: vec![0; len].into(), ..small() };
    assert!(try_encode(&with_body(BODY_LEN_MAX)).is_ok());
    let len = BODY_LEN_MAX + 1;
    assert_eq!(try_encode(&with_body(len)), Err(MessageError::BodyTooLong { len }));

    let with_properties = |len: usize| {
        let mut properties = b"a\x01".to_vec();
        properties.resize(len - 1, b'v');
        properties.push(2);
        Message { properties: properties.into(), ..small() }
    };
    assert!(try_encode(&with_properties(PROPERTIES_LEN_MAX - 20)).is_ok());
    let len = PROPERTIES_LEN_MAX + 1;
    assert_eq!(try_encode(&with_properties(len - 20)), Err(MessageError::PropertiesTooLong { len }));

    let found = QueueId(1 << 31);
    assert_eq!(try_encode(&Message { queue: found, ..small() }), Err(MessageError::QueueId { found }));
}

/// proves: I6, B65, B66
#[test]
fn a_walk_tells_records_blanks_zeros_and_damage_apart() {
    let mut segment = sealed(&small(), store_host());
    let len = segment.len() as u32;
    assert_eq!(next_at(&segment), Scanned::Record { len });
    segment.extend_from_slice(&blank::encode(8));
    assert_eq!(next_at(&segment[len as usize..]), Scanned::Blank { len: 8 });
    for zeros in [0, 7, 8, 4096] {
        assert_eq!(next_at(&vec![0; zeros]), Scanned::Nothing);
        assert!(parse(vec![0; zeros]).is_err(), "zeros are no record");
    }
    assert!(matches!(next_at(&[0xFF; 4096]), Scanned::Damaged(RecordError::Magic { .. })));
    for (total, short) in [(0u32, true), (90, true), (u32::MAX, true), (i32::MAX as u32, false)] {
        segment[..4].copy_from_slice(&total.to_be_bytes());
        let expected = match short {
            true => RecordError::TotalSize { found: total.cast_signed() },
            false => RecordError::Truncated { needed: total.into(), available: segment.len() as u64 },
        };
        assert_eq!(next_at(&segment), Scanned::Damaged(expected));
    }
}

/// proves: B36
#[test]
fn a_batch_with_a_bad_part_is_refused_whole() {
    let good = batch_of(3);
    let second = 26; // the first part: 22 bytes of fields and 4 of properties
    for (at, bytes, why) in [
        (second, [0, 0, 0, 0], "length 0"),
        (second, [0xFF; 4], "negative length"),
        (second, [0x7F, 0xFF, 0xFF, 0xFF], "crosses the end"),
        (second + 16, [0xFF; 4], "negative body length"),
        (second + 16, [0, 0, 0, 4], "body length that moves the rest"),
        (second + 16, [0x7F, 0xFF, 0xFF, 0xFF], "body crosses the end"),
    ] {
        let mut bad = good.clone();
        bad[at..at + 4].copy_from_slice(&bytes);
        assert_eq!(batch::decode(&bad.into()), Err(BatchError::Part { number: 1, at: second }), "{why}");
    }
    assert_eq!(batch::decode(&Bytes::new()), Err(BatchError::Empty));
    let most = [0, 0, 0, 22].into_iter().chain([0; 18]).collect::<Vec<u8>>().repeat(1 << 15);
    assert_eq!(batch::decode(&most.into()), Err(BatchError::TooMany));
}
