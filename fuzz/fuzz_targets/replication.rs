//! Any bytes are what one node of a group tells another, or has written down for itself, or an error, with a
//! checksum that holds or not; and what was read is written as the same bytes.
//!
//! The first byte of an input chooses: a message, a promise, the epochs of a log, or the record that
//! begins an epoch.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use staticfire::replication::{Barrier, CONTROL_TOPIC, notes, wire};
use staticfire::storage::record::{encode, seal};
use staticfire::storage::{Message, PhysicalOffset, QueueId, QueueOffset, Record, TopicName};

/// Where the checksum of a message stands, and what it covers begins.
const CHECKSUM: std::ops::Range<usize> = 8..12;

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 4 {
        0 => message(bytes),
        1 => promise(bytes),
        2 => epochs(bytes),
        _ => barrier(bytes),
    }
});

fn message(input: &[u8]) {
    let damaged = wire::decode(&Bytes::copy_from_slice(input));
    let mut bytes = input.to_vec();
    if bytes.len() >= CHECKSUM.end {
        let crc = crc32fast::hash(&bytes[CHECKSUM.end..]);
        bytes[CHECKSUM].copy_from_slice(&crc.to_be_bytes());
    }
    assert!(damaged.is_err() || bytes == input, "it was read although its checksum does not hold");
    let Ok((envelope, records)) = wire::decode(&bytes.clone().into()) else { return };
    // Two bytes are reserved, and longer names of groups are cut when they are written.
    bytes[6..8].fill(0);
    if envelope.group.len() <= 1 << 10 {
        assert_eq!(wire::encode(&envelope, vec![records]).concat(), bytes);
    }
}

/// The bytes with a checksum behind them that holds.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    [bytes, &crc32fast::hash(bytes).to_be_bytes()].concat()
}

fn promise(input: &[u8]) {
    drop(notes::decode_promise(input));
    let bytes = sealed(input);
    if let Ok((disk, promise)) = notes::decode_promise(&bytes) {
        assert_eq!(notes::encode_promise(disk, &promise), bytes);
    }
}

fn epochs(input: &[u8]) {
    drop(notes::decode_epochs(input));
    let bytes = sealed(input);
    if let Ok(table) = notes::decode_epochs(&bytes) {
        assert_eq!(notes::encode_epochs(&table), bytes);
    }
}

fn barrier(input: &[u8]) {
    let topic = TopicName::new(CONTROL_TOPIC).expect("a name");
    let message = Message::new(topic, QueueId(0), input.to_vec()).with_property("TAGS", "barrier");
    if let Ok(Some(barrier)) = Barrier::read(&record(&message)) {
        assert_eq!(barrier.message().body, input);
        assert_eq!(Barrier::read(&record(&barrier.message())), Ok(Some(barrier)));
    }
}

fn record(message: &Message) -> Record {
    let mut bytes = Vec::new();
    let encoded = encode(message, "127.0.0.1:10911".parse().expect("an address"), &mut bytes);
    seal(&mut bytes, encoded.expect("a small message"), QueueOffset(0), PhysicalOffset(0), 0);
    Record::unverified(bytes.into()).expect("just made")
}
