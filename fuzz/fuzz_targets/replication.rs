//! Any bytes are a message between the nodes of a group or an error, with a checksum that holds or not; and a
//! message that was read is written as the same bytes.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use staticfire::replication::wire;

/// Where the checksum stands, and what it covers begins.
const CHECKSUM: std::ops::Range<usize> = 8..12;

fuzz_target!(|input: &[u8]| {
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
});
