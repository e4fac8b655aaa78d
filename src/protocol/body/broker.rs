//! What a broker tells name servers (nameserver.md §3.2 and §3.3).
//!
//! The compressed form is a zlib stream of
//!
//! ```text
//!   i32 length, data version as JSON
//!   i32 number of topics
//!     i32 length, text: name SP readQueues SP writeQueues SP perm SP filterType SP attributesJson
//!   i32 length, filter servers as JSON
//!   … mappings of static topics, not read
//! ```

use std::io::Read;

use bytes::Buf;
use flate2::read::ZlibDecoder;
use serde::{Deserialize, Serialize};

use super::{TopicConfig, TopicFilterType, TopicTable, lenient};
use crate::protocol::json::{self, BodyError};

/// The most bytes a compressed registration may unpack to: 100,000 topics with long names.
pub const UNPACKED_MAX: u64 = 32 << 20;

/// The body of a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegisterBrokerBody {
    /// Always empty nowadays.
    #[serde(deserialize_with = "lenient::or_default")]
    pub filter_server_list: Vec<String>,
    /// The broker's topics.
    #[serde(deserialize_with = "lenient::or_default")]
    pub topic_config_serialize_wrapper: TopicTable,
}

/// Brokers below this version send the topic table alone.
const WRAPPED_SINCE: i32 = 37;

impl RegisterBrokerBody {
    /// Reads a body as sent by a broker of this version. A packed body is recognised by its first
    /// byte, because RocketMQ 5.3 packs bodies without saying so in the header.
    ///
    /// # Errors
    /// [`BodyError`]; also when the body unpacks to more than [`UNPACKED_MAX`] bytes.
    pub fn read(body: &[u8], version: i32) -> Result<Self, BodyError> {
        /// First byte of every zlib stream with the usual window.
        const ZLIB: u8 = 0x78;
        if body.first() == Some(&ZLIB) {
            return Ok(Self { topic_config_serialize_wrapper: unpack(body)?, ..Self::default() });
        }
        if version < WRAPPED_SINCE {
            let topics = json::from_slice_or_default(body)?;
            return Ok(Self { topic_config_serialize_wrapper: topics, ..Self::default() });
        }
        json::from_slice_or_default(body)
    }
}

fn unpack(body: &[u8]) -> Result<TopicTable, BodyError> {
    let mut bytes = Vec::new();
    let mut limited = ZlibDecoder::new(body).take(UNPACKED_MAX + 1);
    limited.read_to_end(&mut bytes).map_err(|_| damaged("it is no zlib stream"))?;
    if bytes.len() as u64 > UNPACKED_MAX {
        return Err(damaged("it unpacks to more than 32 MiB"));
    }
    let mut rest = bytes.as_slice();
    let data_version = json::from_slice_tolerant(piece(&mut rest)?)?;
    let mut table = TopicTable { data_version, ..TopicTable::default() };
    let count = length(&mut rest)?;
    for _ in 0..count {
        let text = std::str::from_utf8(piece(&mut rest)?).map_err(|_| damaged("a topic is not UTF-8"))?;
        let topic = topic(text).ok_or_else(|| damaged("a topic lacks a field"))?;
        table.topic_config_table.insert(topic.topic_name.clone(), topic);
    }
    Ok(table)
}

fn topic(text: &str) -> Option<TopicConfig> {
    let mut fields = text.splitn(6, ' ');
    let topic_name = fields.next()?.to_owned();
    let read_queue_nums = fields.next()?.parse().ok()?;
    let write_queue_nums = fields.next()?.parse().ok()?;
    let perm = fields.next()?.parse().ok()?;
    let multi = fields.next() == Some(TopicFilterType::MultiTag.name());
    let topic_filter_type = if multi { TopicFilterType::MultiTag } else { TopicFilterType::SingleTag };
    Some(TopicConfig {
        topic_name,
        read_queue_nums,
        write_queue_nums,
        perm,
        topic_filter_type,
        ..TopicConfig::default()
    })
}

fn piece<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BodyError> {
    let len = length(rest)?;
    let (piece, after) = rest.split_at_checked(len).ok_or_else(|| damaged("a length passes its end"))?;
    *rest = after;
    Ok(piece)
}

fn length(rest: &mut &[u8]) -> Result<usize, BodyError> {
    let value = rest.try_get_i32().map_err(|_| damaged("it ends inside a length"))?;
    usize::try_from(value).map_err(|_| damaged("a length is negative"))
}

const fn damaged(message: &'static str) -> BodyError {
    BodyError::Compressed { message }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    fn pack(parts: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(parts).unwrap();
        encoder.finish().unwrap()
    }

    fn piece_of(text: &str) -> Vec<u8> {
        [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
    }

    #[test]
    fn a_packed_registration_is_read() {
        let bytes = [
            piece_of(r#"{"counter":3,"stateVersion":0,"timestamp":17}"#),
            2_u32.to_be_bytes().to_vec(),
            piece_of("orders 4 8 6 SINGLE_TAG {}"),
            piece_of("TBW102 8 8 7 MULTI_TAG"),
            piece_of("[]"),
        ]
        .concat();
        let body = RegisterBrokerBody::read(&pack(&bytes), 479).unwrap();
        let table = body.topic_config_serialize_wrapper;
        assert_eq!(table.data_version.counter, 3);
        assert_eq!(table.topic_config_table["orders"].write_queue_nums, 8);
        assert_eq!(table.topic_config_table["TBW102"].topic_filter_type, TopicFilterType::MultiTag);
    }

    /// proves: B28
    #[test]
    fn a_bomb_and_a_torn_stream_are_refused() {
        let bomb = pack(&vec![0; usize::try_from(UNPACKED_MAX).unwrap() + 1]);
        assert!(bomb.len() < 64 << 10);
        assert!(matches!(RegisterBrokerBody::read(&bomb, 479), Err(BodyError::Compressed { .. })));
        let whole =
            pack(&[piece_of("{}"), 1_u32.to_be_bytes().to_vec(), piece_of("t 1 1 6 SINGLE_TAG")].concat());
        assert!(RegisterBrokerBody::read(&whole, 479).is_ok());
        for len in 1..whole.len() - 4 {
            assert!(RegisterBrokerBody::read(&whole[..len], 479).is_err(), "{len} bytes");
        }
        for lying in [i32::MIN, -1, i32::MAX] {
            let bytes = pack(&[piece_of("{}"), lying.to_be_bytes().to_vec()].concat());
            assert!(RegisterBrokerBody::read(&bytes, 479).is_err(), "{lying}");
        }
    }

    #[test]
    fn old_and_empty_bodies_are_read() {
        let inner =
            br#"{"dataVersion":{"counter":1,"timestamp":2},"topicConfigTable":{"t":{"topicName":"t"}}}"#;
        let body = RegisterBrokerBody::read(inner, 36).unwrap();
        assert_eq!(body.topic_config_serialize_wrapper.topic_config_table["t"].perm, 6);
        assert_eq!(RegisterBrokerBody::read(b"", 479).unwrap(), RegisterBrokerBody::default());
    }
}
