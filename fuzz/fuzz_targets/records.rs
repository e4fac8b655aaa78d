//! Any bytes are a record, a batch, properties, or an error; and a record that was read
//! can be written again and is the same.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use staticfire_storage::properties::Properties;
use staticfire_storage::record::{RECORD_LEN_MAX, Scanned, encode, next_at, seal};
use staticfire_storage::{PhysicalOffset, Record, RecordCrc, batch, tag};

fuzz_target!(|input: &[u8]| {
    let bytes = Bytes::copy_from_slice(input);
    let scanned = next_at(&bytes);
    if let Ok(record) = Record::unverified(bytes.clone()) {
        assert_eq!(scanned, Scanned::Record { len: record.len() });
        look(&record);
        again(&record);
    }
    for crc in [RecordCrc::Required, RecordCrc::IfPresent] {
        if let Ok(record) = Record::parse(bytes.clone(), PhysicalOffset(0), crc) {
            assert_eq!(record.physical(), PhysicalOffset(0));
        }
    }
    if let Ok(parts) = batch::decode(&bytes) {
        let mut encoded = Vec::new();
        parts.iter().for_each(|part| batch::append(&mut encoded, part).expect("it was read"));
        assert_eq!(batch::decode(&encoded.into()), Ok(parts));
    }
    let _ = (Properties::new(&bytes).pairs().count(), Properties::new(&bytes).get("TAGS"));
});

/// Every accessor, for its panics.
fn look(r: &Record) {
    let _ = (r.magic(), r.body_crc(), r.record_crc(), r.queue(), r.flag(), r.queue_offset(), r.physical());
    let _ = (r.sys_flag(), r.born_ms(), r.born_host(), r.store_ms(), r.store_host(), r.reconsume_times());
    let _ = (r.prepared_offset(), r.body(), r.topic(), r.tag(), r.transaction(), r.message_id());
    let _ = (tag::tags_code(r), format!("{r:?}"), r.properties().is_empty());
}

fn again(record: &Record) {
    let Ok(message) = record.to_message() else { return };
    let mut bytes = Vec::new();
    let Ok(encoded) = encode(&message, record.store_host(), &mut bytes) else { return };
    seal(&mut bytes, encoded, record.queue_offset(), record.physical(), record.store_ms());
    let read = Record::parse(bytes.into(), record.physical(), RecordCrc::Required).expect("just written");
    assert_eq!((read.topic(), read.queue(), read.body()), (record.topic(), record.queue(), record.body()));
    assert_eq!((read.flag(), read.tag(), read.store_ms()), (record.flag(), record.tag(), record.store_ms()));
    assert!(read.len() as usize <= RECORD_LEN_MAX);
}
