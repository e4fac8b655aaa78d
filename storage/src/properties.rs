//! The property string of a message (store-format 3.4), as stored and as sent.
//!
//! ```text
//! name 0x01 value 0x02 name 0x01 value 0x02 ...
//! ```
//! UTF-8, no escaping, no order. The last 0x02 may be missing (older clients). A pair without
//! 0x01, or with an empty name or value, does not count; of two pairs with one name the later
//! counts; a value may hold further 0x01. Whoever stores a string keeps its bytes.

use std::fmt;

/// Separates a name from its value.
pub const NAME_END: u8 = 0x01;
/// Ends a pair.
pub const PAIR_END: u8 = 0x02;

/// The longest property string, in bytes, as stored (the record CRC included).
pub const PROPERTIES_LEN_MAX: usize = i16::MAX as usize;

macro_rules! well_known {
    ($($name:ident = $text:literal: $doc:literal;)*) => { $(#[doc = $doc] pub const $name: &str = $text;)* };
}

well_known! {
    KEYS = "KEYS": "Business keys, separated by one space.";
    TAGS = "TAGS": "The tag, whose hash is in the queue entry.";
    UNIQ_KEY = "UNIQ_KEY": "The message id the client made.";
    WAIT = "WAIT": "`false`: the sender does not wait for flush or replicas.";
    DELAY = "DELAY": "Delay level, 1 to 18.";
    REAL_TOPIC = "REAL_TOPIC": "The topic a parked message belongs to.";
    REAL_QUEUE_ID = "REAL_QID": "The queue a parked message belongs to.";
    RETRY_TOPIC = "RETRY_TOPIC": "The original topic of a message in a retry topic.";
    ORIGIN_MESSAGE_ID = "ORIGIN_MESSAGE_ID": "Id of the message a retry was made of.";
    DLQ_ORIGIN_TOPIC = "DLQ_ORIGIN_TOPIC": "Original topic of a dead letter.";
    DLQ_ORIGIN_MESSAGE_ID = "DLQ_ORIGIN_MESSAGE_ID": "Original id of a dead letter.";
    RECONSUME_TIME = "RECONSUME_TIME": "How often a client that sends back by itself has tried.";
    MAX_RECONSUME_TIMES = "MAX_RECONSUME_TIMES": "How often such a client wants to try.";
    TRANSACTION_PREPARED = "TRAN_MSG": "`true` on a half message.";
    PRODUCER_GROUP = "PGROUP": "Producer group, asked about an undecided half message.";
    TRANSACTION_ID = "__transactionId__": "Id of the transaction.";
    INNER_NUM = "INNER_NUM": "Number of messages in an inner batch.";
    INNER_BASE = "INNER_BASE": "Queue offset of the first message of an inner batch.";
    SHARDING_KEY = "__SHARDINGKEY": "Ordering key.";
    CLUSTER = "CLUSTER": "Cluster of the broker that stored the message.";
    MSG_REGION = "MSG_REGION": "Region of the broker that stored the message.";
    TRACE_ON = "TRACE_ON": "Whether the broker lets clients trace.";
    CRC32 = "__CRC32#": "The record CRC: always the last pair, written by the store alone.";
}

/// A property string, borrowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Properties<'a>(&'a [u8]);

impl<'a> Properties<'a> {
    /// Looks at `encoded`. Any bytes are a property string, perhaps one without a pair.
    #[must_use]
    pub fn new(encoded: &'a [u8]) -> Self {
        Self(encoded)
    }

    /// The encoded bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The pairs in stored order, duplicates included. Names and values are bytes because nobody
    /// made sure that a foreign string is UTF-8.
    pub fn pairs(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        segments(self.0).filter_map(split_pair)
    }

    /// The value of `name` as bytes: of the last pair with that name.
    #[must_use]
    pub fn value(self, name: &str) -> Option<&'a [u8]> {
        if !self.may_hold(name) {
            return None;
        }
        // A name holds no separator, so what starts with it and one is a pair of that name.
        let value = |pair: &'a [u8]| pair.strip_prefix(name.as_bytes())?.strip_prefix(&[NAME_END]);
        segments(self.0).filter_map(value).filter(|value| !value.is_empty()).last()
    }

    /// False when nowhere the last byte of `name` stands before the end of a name. Looking at every
    /// two bytes, without a way out of the loop, takes one instruction for many of them.
    fn may_hold(self, name: &str) -> bool {
        let Some(last) = name.as_bytes().last() else { return false };
        let followed = self.0.iter().zip(self.0.get(1..).unwrap_or_default());
        followed.fold(false, |found, (byte, next)| found | ((byte == last) & (*next == NAME_END)))
    }

    /// The value of `name` as text; `None` also when it is not UTF-8.
    #[must_use]
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.value(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// True when there is no pair.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.pairs().next().is_none()
    }
}

impl fmt::Debug for Properties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.pairs().map(|(n, v)| (String::from_utf8_lossy(n), String::from_utf8_lossy(v))))
            .finish()
    }
}

/// Appends a pair to an encoded string, after the separator that may be missing there.
///
/// # Errors
/// [`PropertyError`] when the string has no room for such a pair: an empty name or value, or a
/// separator inside. `out` is unchanged then.
pub fn append(out: &mut Vec<u8>, name: &str, value: &str) -> Result<(), PropertyError> {
    let separator = |text: &str| text.bytes().any(|b| b == NAME_END || b == PAIR_END);
    if name.is_empty() {
        return Err(PropertyError::EmptyName);
    }
    if value.is_empty() {
        return Err(PropertyError::EmptyValue);
    }
    if separator(name) || separator(value) {
        return Err(PropertyError::Separator);
    }
    out.reserve(name.len() + value.len() + 3);
    end_last_pair(out);
    out.extend_from_slice(name.as_bytes());
    out.push(NAME_END);
    out.extend_from_slice(value.as_bytes());
    out.push(PAIR_END);
    Ok(())
}

/// Appends `encoded` without the pairs named `name` to `out`; everything else keeps its bytes.
pub fn append_without(out: &mut Vec<u8>, encoded: &[u8], name: &str) {
    let mut kept = segments(encoded)
        .filter(|segment| split_pair(segment).is_none_or(|(found, _)| found != name.as_bytes()));
    if let Some(first) = kept.next() {
        out.extend_from_slice(first);
        for segment in kept {
            out.push(PAIR_END);
            out.extend_from_slice(segment);
        }
    }
}

/// Adds the separator behind the last pair when it is missing.
pub(crate) fn end_last_pair(out: &mut Vec<u8>) {
    if out.last().is_some_and(|last| *last != PAIR_END) {
        out.push(PAIR_END);
    }
}

fn segments(encoded: &[u8]) -> impl Iterator<Item = &[u8]> {
    encoded.split(|byte| *byte == PAIR_END)
}

fn split_pair(segment: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = segment.iter().position(|byte| *byte == NAME_END)?;
    let (name, value) = (&segment[..at], &segment[at + 1..]);
    (!name.is_empty() && !value.is_empty()).then_some((name, value))
}

/// Why a pair cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertyError {
    /// The name is empty: readers would skip the pair.
    EmptyName,
    /// The value is empty: readers would skip the pair.
    EmptyValue,
    /// Name or value holds U+0001 or U+0002, which separate names and pairs.
    Separator,
}

impl fmt::Display for PropertyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EmptyName => "a property needs a name",
            Self::EmptyValue => "a property needs a value; leave the pair out instead",
            Self::Separator => "a property holds U+0001 or U+0002, which separate pairs and have no escape",
        })
    }
}

impl std::error::Error for PropertyError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(encoded: &[u8]) -> Vec<(&str, &str)> {
        let utf8 = |bytes| std::str::from_utf8(bytes).unwrap();
        Properties::new(encoded).pairs().map(|(n, v)| (utf8(n), utf8(v))).collect()
    }

    /// proves: store-format 3.4
    #[test]
    fn odd_strings_read_as_the_original_reads_them() {
        assert_eq!(text(b"a\x01b\x02c\x01d"), [("a", "b"), ("c", "d")], "the last separator may be missing");
        assert_eq!(text(b"a\x01\x02\x01b\x02ab\x02\x02x\x01y\x02"), [("x", "y")], "half pairs do not count");
        assert_eq!(text(b"a\x01b\x01c\x02"), [("a", "b\x01c")], "the first separator ends the name");
        assert_eq!(Properties::new(b"a\x01b\x02a\x01c\x02").get("a"), Some("c"), "the later pair counts");
        assert_eq!(Properties::new(b"a\x01\xff\x02").get("a"), None);
        assert_eq!(Properties::new(b"a\x01\xff\x02").value("a"), Some(&b"\xff"[..]));
        assert!(Properties::new(b"").is_empty());
    }

    /// proves: B35
    #[test]
    fn a_separator_cannot_be_smuggled_in() {
        let mut out = b"a\x01b".to_vec();
        for (name, value) in [("", "x"), ("x", ""), ("x", "1\x02TAGS\x01y"), ("x\x01", "y")] {
            append(&mut out, name, value).unwrap_err();
        }
        append(&mut out, "c", "d").unwrap();
        assert_eq!(out, b"a\x01b\x02c\x01d\x02");
    }

    #[test]
    fn removing_a_name_keeps_every_other_byte() {
        let without = |encoded: &[u8]| {
            let mut out = Vec::new();
            append_without(&mut out, encoded, "a");
            out
        };
        assert_eq!(without(b"a\x01b\x02ab\x01c\x02a\x01\x02a\x01d\x02"), b"ab\x01c\x02a\x01\x02");
        assert_eq!(without(b"x\x01y\x02a\x01b"), b"x\x01y");
        assert_eq!(without(b"a\x01b\x02"), b"");
        assert_eq!(without(b"x\x01y"), b"x\x01y");
    }
}
