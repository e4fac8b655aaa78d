//! One record of the commit log: a stored message (store-format 3).
//!
//! All numbers are big-endian two's complement. Widths in bytes; `A` and `B` are 4 for an IPv4
//! and 16 for an IPv6 address, told by bits 0x10 and 0x20 of the system flag.
//!
//! ```text
//!  0  total size 4 | magic 4 | body CRC 4 | queue id 4 | flag 4
//! 20  queue offset 8        | physical offset 8        | system flag 4
//! 40  born time 8           | born host A | born port 4
//!     store time 8          | store host B | store port 4
//!     reconsume times 4     | prepared transaction offset 8
//!     body length 4         | body
//!     topic length 1 (v1) or 2 (v2) | topic
//!     properties length 2   | properties, the last 20 bytes of them the record CRC
//! ```
//!
//! * total size: of the whole record, itself included; the next record starts there.
//! * magic: `DAA320A7` (v1) or `DAA320AB` (v2). v2 is written only when the topic has more than
//!   127 bytes, because older readers know only v1.
//! * body CRC: [`crc31`] of the body. The whole record is covered by the record CRC
//!   ([`checksum`](crate::checksum)), which every record written here has and most records
//!   written by RocketMQ lack.
//! * physical offset: position of the record's first byte. A record found anywhere else is stale.
//! * queue offset, physical offset, store time and the record CRC are known last: [`encode`]
//!   writes the rest, [`seal`] these.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use crate::checksum::SUFFIX_LEN;
use crate::message::{BODY_LEN_MAX, sys_flag};
use crate::name::{DERIVED_TOPIC_LEN_MAX, TOPIC_LEN_MAX};
use crate::properties::PROPERTIES_LEN_MAX;

mod scan;
mod view;
mod write;

pub use crate::checksum::crc31;
pub use scan::{Scanned, next_at};
pub use view::{Record, RecordCrc, RecordError};
pub(crate) use write::number;
pub use write::{Encoded, encode, seal};

/// Marks a record whose topic length takes one byte.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Marks a record whose topic length takes two bytes.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;

const TOTAL: Range<usize> = 0..4;
const MAGIC: Range<usize> = TOTAL.end..TOTAL.end + 4;
const BODY_CRC: Range<usize> = MAGIC.end..MAGIC.end + 4;
const QUEUE_ID: Range<usize> = BODY_CRC.end..BODY_CRC.end + 4;
const FLAG: Range<usize> = QUEUE_ID.end..QUEUE_ID.end + 4;
const QUEUE_OFFSET: Range<usize> = FLAG.end..FLAG.end + 8;
const PHYSICAL: Range<usize> = QUEUE_OFFSET.end..QUEUE_OFFSET.end + 8;
const SYS_FLAG: Range<usize> = PHYSICAL.end..PHYSICAL.end + 4;
const BORN_MS: Range<usize> = SYS_FLAG.end..SYS_FLAG.end + 8;
const BORN_HOST: usize = BORN_MS.end;

const _: () = assert!(QUEUE_OFFSET.start == 20 && PHYSICAL.start == 28 && BORN_HOST == 48);

/// Where the fields behind the born host start; each IPv6 host moves what follows by 12 bytes.
#[derive(Clone, Copy, Debug)]
struct Moving {
    store_ms: usize,
    store_host: usize,
    reconsume_times: usize,
    prepared_offset: usize,
    body_len: usize,
    body: usize,
}

impl Moving {
    const fn of(flags: i32) -> Self {
        let store_ms = BORN_HOST + host_len(flags & sys_flag::BORN_HOST_V6 != 0);
        let store_host = store_ms + 8;
        let reconsume_times = store_host + host_len(flags & sys_flag::STORE_HOST_V6 != 0);
        let prepared_offset = reconsume_times + 4;
        let body_len = prepared_offset + 8;
        Self { store_ms, store_host, reconsume_times, prepared_offset, body_len, body: body_len + 4 }
    }
}

const fn host_len(v6: bool) -> usize {
    if v6 { 20 } else { 8 }
}

const BOTH_V6: i32 = sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6;
/// Longest header: everything before the body, with two IPv6 hosts.
const HEADER_LEN_MAX: usize = Moving::of(BOTH_V6).body;
/// Body of a record with two IPv4 hosts starts here.
const HEADER_LEN_MIN: usize = Moving::of(0).body;

/// The shortest record: v1, IPv4 hosts, no body, no topic, no properties.
pub const RECORD_LEN_MIN: usize = HEADER_LEN_MIN + 1 + 2;
/// The longest record [`encode`] makes. Records by others may be longer.
pub const RECORD_LEN_MAX: usize =
    HEADER_LEN_MAX + BODY_LEN_MAX + 2 + DERIVED_TOPIC_LEN_MAX + 2 + PROPERTIES_LEN_MAX;

const _: () = assert!(Moving::of(0).store_ms == 56 && HEADER_LEN_MIN == 88, "the documented layout");
const _: () = assert!(HEADER_LEN_MAX == HEADER_LEN_MIN + 24 && RECORD_LEN_MIN == 91);
const _: () = assert!(TOPIC_LEN_MAX == i8::MAX as usize, "ordinary topics fit version 1");
const _: () = assert!(DERIVED_TOPIC_LEN_MAX <= i16::MAX as usize, "all topics fit version 2");
const _: () = assert!(RECORD_LEN_MAX <= BODY_LEN_MAX + (64 << 10), "the documented slack");
const _: () = assert!(SUFFIX_LEN < PROPERTIES_LEN_MAX);

/// The address as RocketMQ would store it: mapped IPv4 addresses are IPv4 addresses.
fn canonical(host: SocketAddr) -> SocketAddr {
    SocketAddr::new(host.ip().to_canonical(), host.port())
}

/// The four bytes at `at`. The callers have checked the length.
fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The eight bytes at `at`. The callers have checked the length.
fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The host at `at`; an error carries a port outside 0..=65535.
fn host_at(bytes: &[u8], at: usize, v6: bool) -> Result<SocketAddr, i32> {
    let (ip, port) = if v6 {
        let ip: [u8; 16] = bytes[at..at + 16].try_into().expect("sixteen bytes");
        (IpAddr::from(ip), i32_at(bytes, at + 16))
    } else {
        let ip: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
        (IpAddr::from(ip), i32_at(bytes, at + 4))
    };
    u16::try_from(port).map(|port| SocketAddr::new(ip, port)).map_err(|_| port)
}
