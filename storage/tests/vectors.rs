//! The worked examples of the format sheet, byte for byte (store-format 19).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use bytes::Bytes;
use staticfire_storage::batch::{self, BatchPart};
use staticfire_storage::checksum::crc31;
use staticfire_storage::message::Transaction;
use staticfire_storage::record::{self, Scanned, next_at};
use staticfire_storage::tag::{self, tags_code};
use staticfire_storage::{
    Message, MessageId, PhysicalOffset, QueueId, QueueOffset, Record, RecordCrc, TopicName, blank,
};

const RECORD_A: &str = "
    00 00 00 c0 da a3 20 a7 69 c8 65 ed 00 00 00 03
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    00 00 00 00 00 00 00 00 00 00 01 8b cf e5 68 00
    c0 a8 01 0a 00 00 c8 22 00 00 01 8b cf e5 68 7b
    0a 00 00 01 00 00 2a 9f 00 00 00 00 00 00 00 00
    00 00 00 00 00 00 00 0e 48 65 6c 6c 6f 20 52 6f
    63 6b 65 74 4d 51 09 54 6f 70 69 63 54 65 73 74
    00 4e 4b 45 59 53 01 4f 72 64 65 72 49 44 31 38
    38 02 55 4e 49 51 5f 4b 45 59 01 43 30 41 38 30
    31 30 41 31 46 34 30 31 38 42 34 41 41 43 32 34
    37 42 37 36 30 30 30 30 30 30 30 02 57 41 49 54
    01 74 72 75 65 02 54 41 47 53 01 54 61 67 41 02";

const RECORD_B: &str = "
    00 00 00 df da a3 20 a7 50 a2 b8 41 00 00 00 03
    de ad be ef 00 00 00 00 00 00 00 01 00 00 00 00
    00 00 00 c0 00 00 00 18 00 00 01 8b cf e5 68 05
    20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01
    00 00 c8 22 00 00 01 8b cf e5 70 4b 0a 00 00 01
    00 00 2a 9f 00 00 00 02 11 22 33 44 55 66 77 88
    00 00 00 06 e4 bd a0 e5 a5 bd 09 54 6f 70 69 63
    54 65 73 74 00 69 55 4e 49 51 5f 4b 45 59 01 43
    30 41 38 30 31 30 41 31 46 34 30 31 38 42 34 41
    41 43 32 34 37 42 37 36 30 30 30 30 30 30 31 02
    4b 45 59 53 01 4f 72 64 65 72 49 44 31 38 38 20
    6b 32 02 54 41 47 53 01 70 6f 6c 79 67 65 6e 65
    6c 75 62 72 69 63 61 6e 74 73 02 5f 5f 43 52 43
    33 32 23 01 39 39 38 38 36 37 31 36 38 31 02";

const RECORD_C_START: &str = "
    00 00 00 e0 da a3 20 ab 70 6b 9d 0f 00 00 00 00
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    00 00 01 9f 00 00 00 00 00 00 01 8b cf e5 68 00
    c0 a8 01 0a 00 00 c8 22 00 00 01 8b cf e5 74 33
    0a 00 00 01 00 00 2a 9f 00 00 00 00 00 00 00 00
    00 00 00 00 00 00 00 02 76 32 00 82 74 74 74 74";

const BATCH: &str = "
    00 00 00 22 00 00 00 00 00 00 00 00 00 00 00 00
    00 00 00 02 6d 30 00 0a 54 41 47 53 01 54 61 67
    41 02 00 00 00 22 00 00 00 00 00 00 00 00 00 00
    00 00 00 00 00 02 6d 31 00 0a 54 41 47 53 01 54
    61 67 42 02";

const BORN_MS: i64 = 1_700_000_000_000;
const UNIQ_KEY_A: &str = "C0A8010A1F4018B4AAC247B760000000";
const UNIQ_KEY_B: &str = "C0A8010A1F4018B4AAC247B760000001";

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn host(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn store_host() -> SocketAddr {
    host("10.0.0.1:10911")
}

fn parse(bytes: &[u8], at: u64, crc: RecordCrc) -> Record {
    Record::parse(Bytes::copy_from_slice(bytes), PhysicalOffset(at), crc).unwrap()
}

fn stored(message: &Message, queue_offset: u64, physical: u64, store_ms: i64) -> Vec<u8> {
    let mut out = Vec::new();
    let encoded = record::encode(message, store_host(), &mut out).unwrap();
    record::seal(&mut out, encoded, QueueOffset(queue_offset), PhysicalOffset(physical), store_ms);
    out
}

fn message_a() -> Message {
    Message::new(TopicName::new("TopicTest").unwrap(), QueueId(3), "Hello RocketMQ")
        .born(BORN_MS, host("192.168.1.10:51234"))
        .with_property("KEYS", "OrderID188")
        .with_property("UNIQ_KEY", UNIQ_KEY_A)
        .with_property("WAIT", "true")
        .with_property("TAGS", "TagA")
}

/// proves: store-format 19.1
#[test]
fn record_a_is_read_field_by_field() {
    let bytes = hex(RECORD_A);
    let a = parse(&bytes, 0, RecordCrc::IfPresent);
    assert_eq!((a.len(), a.magic(), a.body_crc()), (192, record::MAGIC_V1, 0x69C8_65ED));
    assert_eq!((a.topic(), a.queue(), a.queue_offset()), ("TopicTest", QueueId(3), QueueOffset(0)));
    assert_eq!((a.flag(), a.sys_flag(), a.reconsume_times(), a.prepared_offset()), (0, 0, 0, 0));
    assert_eq!((a.born_ms(), a.store_ms()), (BORN_MS, BORN_MS + 123));
    assert_eq!((a.born_host(), a.store_host()), (host("192.168.1.10:51234"), store_host()));
    assert_eq!((a.physical(), a.body()), (PhysicalOffset(0), Bytes::from("Hello RocketMQ")));
    assert_eq!((a.tag(), a.property("KEYS")), (Some("TagA"), Some("OrderID188")));
    assert_eq!((a.property("UNIQ_KEY"), a.property("NONE")), (Some(UNIQ_KEY_A), None));
    assert_eq!((a.record_crc(), tags_code(&a)), (None, 2_598_919));
    assert_eq!(a.message_id().to_string(), "0A00000100002A9F0000000000000000");
    assert_eq!((a.bytes(), a.transaction()), (&Bytes::from(bytes), Transaction::None));
}

/// proves: store-format 19.1, 3.6
#[test]
fn record_a_written_here_differs_by_its_record_crc_alone() {
    let ours = stored(&message_a(), 0, 0, BORN_MS + 123);
    let mut expected = hex(RECORD_A);
    expected.extend_from_slice(b"__CRC32#\x010000000000\x02");
    expected[..4].copy_from_slice(&212u32.to_be_bytes());
    expected[0x70..0x72].copy_from_slice(&(0x4Eu16 + 20).to_be_bytes());
    let digits: String = format!("{:010}", crc31(&expected[..192])).chars().rev().collect();
    expected[192 + 9..192 + 19].copy_from_slice(digits.as_bytes());
    assert_eq!(ours, expected);
    let again = parse(&ours, 0, RecordCrc::Required);
    assert_eq!(again.properties().pairs().count(), 5);
}

/// proves: store-format 19.2, 3.6
#[test]
fn record_b_is_written_and_read_with_its_record_crc() {
    let mut b = Message::new(TopicName::new("TopicTest").unwrap(), QueueId(3), "你好")
        .born(BORN_MS + 5, host("[2001:db8::1]:51234"))
        .with_property("UNIQ_KEY", UNIQ_KEY_B)
        .with_property("KEYS", "OrderID188 k2")
        .with_property("TAGS", "polygenelubricants");
    b.flag = 0xDEAD_BEEFu32.cast_signed();
    b.sys_flag = 0x8;
    b.reconsume_times = 2;
    b.prepared_offset = 0x1122_3344_5566_7788;
    let bytes = stored(&b, 1, 192, 1_700_000_002_123);
    assert_eq!(bytes, hex(RECORD_B));

    let read = parse(&bytes, 192, RecordCrc::Required);
    assert_eq!((read.len(), read.record_crc()), (223, Some(1_861_768_899)));
    assert_eq!((read.flag(), read.sys_flag(), read.transaction()), (-559_038_737, 0x18, Transaction::Commit));
    assert_eq!((read.born_host(), read.store_ms()), (host("[2001:db8::1]:51234"), 1_700_000_002_123));
    assert_eq!((read.reconsume_times(), read.prepared_offset()), (2, 0x1122_3344_5566_7788));
    assert_eq!(read.message_id().to_string(), "0A00000100002A9F00000000000000C0");
    assert_eq!(tags_code(&read), -2_147_483_648);
    assert_eq!(tags_code(&read).to_be_bytes(), [0xff, 0xff, 0xff, 0xff, 0x80, 0, 0, 0]);
}

/// proves: store-format 19.3
#[test]
fn record_c_has_a_topic_for_version_2() {
    let mut bytes = hex(RECORD_C_START);
    bytes.extend_from_slice(&[b't'; 126]);
    bytes.extend_from_slice(&[0, 0]);
    let c = parse(&bytes, 415, RecordCrc::IfPresent);
    assert_eq!((c.len(), c.magic(), c.body_crc()), (224, record::MAGIC_V2, 0x706B_9D0F));
    assert_eq!((c.topic(), c.body()), ("t".repeat(130).as_str(), Bytes::from("v2")));
    assert_eq!((c.queue(), c.store_ms()), (QueueId(0), 1_700_000_003_123));
    assert!(c.properties().is_empty());
    assert_eq!(tags_code(&c), 0);
}

/// proves: store-format 3.1, 19.3
#[test]
fn version_2_is_written_for_topics_over_127_bytes_only() {
    for (len, magic) in [(127, record::MAGIC_V1), (128, record::MAGIC_V2), (255, record::MAGIC_V2)] {
        let topic = format!("%RETRY%{}", "g".repeat(len - 7));
        let message = Message::new(TopicName::new(&topic).unwrap(), QueueId(0), "v2");
        let read = parse(&stored(&message, 0, 415, 1), 415, RecordCrc::Required);
        assert_eq!((read.magic(), read.topic()), (magic, topic.as_str()));
    }
}

/// proves: store-format 19.4
#[test]
fn a_blank_says_how_much_of_the_segment_is_left() {
    assert_eq!(blank::encode((1 << 30) - 639).to_vec(), hex("3f ff fd 81 cb d4 31 94"));
    assert_eq!(blank::encode(4096 - 639).to_vec(), hex("00 00 0d 81 cb d4 31 94"));
    assert_eq!(next_at(&hex("00 00 0d 81 cb d4 31 94")), Scanned::Blank { len: 3457 });
}

/// proves: store-format 4, 19.2
#[test]
fn message_ids_are_text_both_ways() {
    let v6 = "20010DB800000000000000000000000100002A9F00000000000000C0";
    let id = MessageId { host: host("[2001:db8::1]:10911"), physical: PhysicalOffset(192) };
    assert_eq!((id.to_string().as_str(), v6.parse()), (v6, Ok(id)));
    let v4 = "0A00000100002A9F00000000000000C0";
    let id = MessageId { host: store_host(), physical: PhysicalOffset(192) };
    assert_eq!((id.to_string().as_str(), v4.parse()), (v4, Ok(id)));
}

/// proves: store-format 5.1, 19.1, 19.2
#[test]
fn tags_hash_as_java_strings_do() {
    for (text, hash) in [
        ("", 0),
        ("TagA", 2_598_919),
        ("polygenelubricants", i32::MIN),
        ("Aa", 2112),
        ("BB", 2112),
        ("TopicTest-3", 1_247_014_823),
        // Two UTF-16 units: 0xD83D * 31 + 0xDE00.
        ("😀", 0xD83D * 31 + 0xDE00),
    ] {
        assert_eq!(tag::java_hash(text), hash, "{text:?}");
    }
}

/// proves: store-format 3.7, 19.6
#[test]
fn a_client_batch_is_taken_apart_and_made_again() {
    let parts = batch::decode(&hex(BATCH).into()).unwrap();
    let part = |body: &'static str, properties: &'static str| BatchPart {
        flag: 0,
        body: body.into(),
        properties: properties.into(),
    };
    assert_eq!(parts, [part("m0", "TAGS\x01TagA\x02"), part("m1", "TAGS\x01TagB\x02")]);
    let mut again = Vec::new();
    for part in &parts {
        batch::append(&mut again, part).unwrap();
    }
    assert_eq!(again, hex(BATCH));
}
