//! Record for record, by the record format alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::{Value, json};
use staticfire_storage::batch;
use staticfire_storage::message::sys_flag;
use staticfire_storage::record::{Scanned, next_at};
use staticfire_storage::tag::tags_code;
use staticfire_storage::{PhysicalOffset, Record, RecordCrc, RecordError, blank};

use crate::fixture::{Fixture, WHOLE};

const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";

/// proves: M9 for the commit log: records and blanks in the order RocketMQ reads them
#[test]
fn a_walk_over_the_log_finds_what_rocketmq_finds() {
    for name in WHOLE {
        let fixture = Fixture::open(name);
        let crc = if name == "crc32" { RecordCrc::Required } else { RecordCrc::IfPresent };
        let found: Vec<Value> = fixture
            .segments()
            .into_iter()
            .flat_map(|(start, bytes)| walk(start, bytes.into(), crc))
            .collect();
        let log_lines = |line: &&Value| line["t"] == "record" || line["t"] == "blank" || line["t"] == "bad";
        let expected: Vec<Value> = fixture.expected.iter().filter(log_lines).map(comparable).collect();
        assert!(expected.len() > 300, "{name}: {} lines", expected.len());
        assert_eq!(found.len(), expected.len(), "{name}");
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "{name}");
        }
    }
}

/// proves: store-format 13.1, B64: in damaged logs too, what RocketMQ reads is read the same, and
/// where it finds no record there is none
#[test]
fn damaged_logs_hold_the_records_rocketmq_reads_in_them() {
    let mut bad_places = 0;
    for name in Fixture::torn_names() {
        let fixture = Fixture::open(&name);
        let segments: BTreeMap<u64, Bytes> =
            fixture.segments().into_iter().map(|(start, bytes)| (start, bytes.into())).collect();
        let rest_at = |offset: u64| {
            let (start, bytes) = segments.range(..=offset).next_back().unwrap();
            bytes.slice((offset - start) as usize..)
        };
        for expected in fixture.lines("record") {
            let offset = expected["offset"].as_u64().unwrap();
            let found = line_of(&Record::unverified(rest_at(offset)).unwrap(), offset);
            assert_eq!(without_code(found), without_code(comparable(expected)), "{name}");
        }
        for bad in fixture.lines("bad") {
            let at = bad["offset"].as_u64().unwrap();
            let found = Record::parse(rest_at(at), PhysicalOffset(at), RecordCrc::IfPresent);
            assert!(found.is_err(), "{name}: {at}: {found:?}");
            bad_places += 1;
        }
    }
    assert!(bad_places >= 3, "{bad_places} bad places");
}

/// proves: store-format 13.1: the torn record that RocketMQ takes for whole
#[test]
fn properties_that_end_in_zeros_are_torn() {
    let fixture = Fixture::open("torn/log-cut-in-properties");
    let (start, segment) = fixture.segments().pop_last().unwrap();
    let last = fixture.lines("record").last().unwrap()["offset"].as_u64().unwrap();
    let bytes = Bytes::from(segment).slice((last - start) as usize..);
    let found = Record::parse(bytes, PhysicalOffset(last), RecordCrc::IfPresent);
    assert_eq!(found, Err(RecordError::PropertiesTorn));
}

/// proves: store-format 3.7
#[test]
fn inner_batches_are_taken_apart_as_rocketmq_does() {
    let fixture = Fixture::open("clean");
    let segments = fixture.segments();
    let mut seen = 0;
    for expected in fixture.lines("record").filter(|line| !line["inner"].is_null()) {
        let at = expected["offset"].as_u64().unwrap();
        let (start, bytes) = segments.range(..=at).next_back().unwrap();
        let record = Record::unverified(Bytes::copy_from_slice(&bytes[(at - start) as usize..])).unwrap();
        assert_ne!(record.sys_flag() & sys_flag::INNER_BATCH, 0);
        let parts = batch::decode(&record.body()).unwrap();
        let base = record.queue_offset().0;
        let inner = parts.iter().zip(base..).map(|(part, queue_offset)| {
            json!({
                "queueOffset": queue_offset,
                "flag": part.flag,
                "bodyLen": part.body.len(),
                "bodyCRC": staticfire_storage::checksum::crc31(&part.body),
                "properties": properties(staticfire_storage::properties::Properties::new(&part.properties)),
            })
        });
        assert_eq!(inner.collect::<Value>(), expected["inner"], "record at {at}");
        assert_eq!(record.property("INNER_NUM"), Some(parts.len().to_string().as_str()));
        seen += 1;
    }
    assert!(seen > 10, "{seen} inner batches");
}

/// Walks one segment as recovery would, with every check.
fn walk(start: u64, segment: Bytes, crc: RecordCrc) -> Vec<Value> {
    let mut lines = Vec::new();
    let mut at = 0;
    loop {
        let rest = segment.slice(at..);
        let offset = start + at as u64;
        match next_at(&rest) {
            Scanned::Record { len } => {
                let record = Record::parse(rest, PhysicalOffset(offset), crc).unwrap();
                assert_eq!(record.len(), len);
                lines.push(line_of(&record, offset));
                at += len as usize;
            }
            Scanned::Blank { len } => {
                assert_eq!(len as usize, rest.len(), "a blank reaches the end of its segment");
                assert_eq!(rest[..8], blank::encode(len));
                lines.push(json!({"t": "blank", "offset": offset, "size": len}));
                return lines;
            }
            Scanned::Nothing => return lines,
            Scanned::Damaged(error) => {
                lines.push(json!({"t": "bad", "offset": offset, "error": error.to_string()}));
                return lines;
            }
        }
    }
}

/// A record as `expected.jsonl` describes it.
fn line_of(record: &Record, offset: u64) -> Value {
    let host = |host: SocketAddr| match host {
        SocketAddr::V4(v4) => format!("{}|{}", v4.ip(), v4.port()),
        SocketAddr::V6(v6) => format!("{}|{}", java_v6(v6.ip().segments()), v6.port()),
    };
    let mut line = json!({
        "t": "record",
        "offset": offset,
        "size": record.len(),
        "magic": format!("{:08X}", record.magic()),
        "topic": record.topic(),
        "queueId": record.queue().0,
        "queueOffset": record.queue_offset().0,
        "physicalOffset": record.physical().0,
        "sysFlag": record.sys_flag(),
        "flag": record.flag(),
        "bornTimestamp": record.born_ms(),
        "bornHost": host(record.born_host()),
        "storeTimestamp": record.store_ms(),
        "storeHost": host(record.store_host()),
        "reconsumeTimes": record.reconsume_times(),
        "preparedTransactionOffset": record.prepared_offset(),
        "msgId": record.message_id().to_string(),
        "bodyCRC": record.body_crc(),
        "bodyLen": record.body().len(),
        "properties": properties(record.properties()),
        "recordCRC32": crc32fast::hash(record.bytes()),
    });
    // The queue entry of a delayed message holds a time instead.
    if record.transaction().is_queued() && record.topic() != SCHEDULE_TOPIC {
        line["tagsCode"] = tags_code(record).into();
    }
    line
}

/// Java prints every group of an IPv6 address and shortens none.
fn java_v6(segments: [u16; 8]) -> String {
    segments.map(|group| format!("{group:x}")).join(":")
}

fn properties(properties: staticfire_storage::properties::Properties<'_>) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    properties.pairs().map(|(name, value)| (text(name), text(value))).collect()
}

/// A line without what may be damaged in the queue entry or in the record.
fn without_code(mut line: Value) -> Value {
    line.as_object_mut().unwrap().remove("tagsCode");
    line
}

/// An expected line without what the record itself does not say.
fn comparable(line: &Value) -> Value {
    let mut line = line.clone();
    let fields = line.as_object_mut().unwrap();
    if fields["t"] == "record" {
        let entry = fields.remove("entry").unwrap();
        if !entry.is_null() && fields["topic"] != SCHEDULE_TOPIC {
            fields.insert("tagsCode".into(), entry[3].clone());
        }
        for beyond_the_record in ["inner", "inflatedLen", "inflatedCRC"] {
            fields.remove(beyond_the_record);
        }
    }
    line
}
