//! Bodies in JSON: strict going out, tolerant coming in (remoting-protocol §3).
//!
//! RocketMQ's writer produces two things that are not JSON, both at the place of an object's key:
//!
//! ```text
//! {"brokerAddrs":{0:"10.0.0.1:10911"}}                                an integer without quotes
//! {"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:5}}      an object as the key
//! ```
//!
//! [`from_slice_tolerant`] puts both into quotes (the object's text becomes the content of a string)
//! and hands the rest to a strict parser. Everything written by [`to_bytes`] is strict JSON with
//! quoted keys, which every RocketMQ client reads too.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The deepest nesting read.
pub const DEPTH_MAX: usize = 64;

/// Writes `body` as strict JSON.
///
/// # Panics
/// When a map has keys that are neither text nor numbers, which the types of this crate never do.
#[must_use]
pub fn to_bytes<T: Serialize>(body: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(body).expect("bodies have text or number keys and no failing serializer"))
}

/// Writes `body` as RocketMQ does where queues are keys: the object itself stands in front of the
/// colon. Clients from 5.4 on read nothing else there.
///
/// # Panics
/// As [`to_bytes`].
#[must_use]
pub fn to_bytes_with_queue_keys<T: Serialize>(body: &T) -> Bytes {
    /// How the text of a queue begins inside of a key, see [`crate::protocol::body::MessageQueue`].
    const QUEUE: &[u8] = br#""{\"brokerName\":"#;
    let text = to_bytes(body);
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        if text[at] != b'"' {
            out.push(text[at]);
            at += 1;
            continue;
        }
        let end = end_of_string(&text, at);
        if text[at..end].starts_with(QUEUE) && text.get(end) == Some(&b':') {
            let queue: String = serde_json::from_slice(&text[at..end]).expect("it was written as a string");
            out.extend_from_slice(queue.as_bytes());
        } else {
            out.extend_from_slice(&text[at..end]);
        }
        at = end;
    }
    out.into()
}

/// Reads a body written by any RocketMQ client, broker or name server. Takes time and memory linear
/// in the length of `text`.
///
/// # Errors
/// [`BodyError`] when the text is not JSON even so, is nested deeper than [`DEPTH_MAX`], or does not
/// describe a `T`.
pub fn from_slice_tolerant<T: DeserializeOwned>(text: &[u8]) -> Result<T, BodyError> {
    let strict = quote_keys(text)?;
    serde_json::from_slice(&strict).map_err(|error| BodyError::Json { message: error.to_string() })
}

/// As [`from_slice_tolerant`]; an empty body is the default value.
///
/// # Errors
/// As [`from_slice_tolerant`].
pub fn from_slice_or_default<T: DeserializeOwned + Default>(text: &[u8]) -> Result<T, BodyError> {
    if text.trim_ascii().is_empty() { Ok(T::default()) } else { from_slice_tolerant(text) }
}

/// Why a body was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// Nested deeper than [`DEPTH_MAX`].
    TooDeep {
        /// The byte that opens one level too many.
        at: usize,
    },
    /// An object used as a key does not end.
    UnclosedKey {
        /// Where it starts.
        at: usize,
    },
    /// Not JSON, or not what was expected here.
    Json {
        /// What is wrong and where, counted in the text after keys were quoted.
        message: String,
    },
    /// A compressed body does not unpack.
    Compressed {
        /// What is wrong.
        message: &'static str,
    },
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooDeep { at } => write!(f, "the body is nested deeper than {DEPTH_MAX} at byte {at}"),
            Self::UnclosedKey { at } => write!(f, "the object used as a key at byte {at} does not end"),
            Self::Json { message } => write!(f, "the body is not understood: {message}"),
            Self::Compressed { message } => write!(f, "the compressed body is not understood: {message}"),
        }
    }
}

impl std::error::Error for BodyError {}

/// Puts bare integer keys and object keys into quotes; borrows when there are none. Text that is not
/// JSON passes through for the strict parser to refuse.
///
/// # Errors
/// [`BodyError::TooDeep`] and [`BodyError::UnclosedKey`].
pub fn quote_keys(text: &[u8]) -> Result<Cow<'_, [u8]>, BodyError> {
    let mut output = Output { text, done: 0, out: Vec::new() };
    let mut containers: Vec<u8> = Vec::new();
    let mut key_expected = false;
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        match byte {
            b'"' => {
                at = end_of_string(text, at);
                key_expected = false;
                continue;
            }
            b'{' if key_expected => {
                let end = end_of_object(text, at)?;
                output.quote(at, end);
                at = end;
                key_expected = false;
                continue;
            }
            b'-' | b'0'..=b'9' if key_expected => {
                let end = end_of_integer(text, at);
                output.quote(at, end);
                at = end;
                key_expected = false;
                continue;
            }
            b'{' | b'[' => {
                if containers.len() == DEPTH_MAX {
                    return Err(BodyError::TooDeep { at });
                }
                containers.push(byte);
                key_expected = byte == b'{';
            }
            b'}' | b']' => {
                containers.pop();
                key_expected = false;
            }
            b',' => key_expected = containers.last() == Some(&b'{'),
            b' ' | b'\t' | b'\n' | b'\r' => {}
            _ => key_expected = false,
        }
        at += 1;
    }
    Ok(output.finish())
}

/// What was written so far; `text[done..]` still waits to be copied.
struct Output<'a> {
    text: &'a [u8],
    done: usize,
    out: Vec<u8>,
}

impl<'a> Output<'a> {
    fn quote(&mut self, from: usize, to: usize) {
        self.out.extend_from_slice(&self.text[self.done..from]);
        self.out.push(b'"');
        for &byte in &self.text[from..to] {
            match byte {
                b'"' | b'\\' => self.out.extend_from_slice(&[b'\\', byte]),
                b'\t' | b'\n' | b'\r' => self.out.push(b' '),
                _ => self.out.push(byte),
            }
        }
        self.out.push(b'"');
        self.done = to;
    }

    fn finish(mut self) -> Cow<'a, [u8]> {
        if self.done == 0 {
            return Cow::Borrowed(self.text);
        }
        self.out.extend_from_slice(&self.text[self.done..]);
        Cow::Owned(self.out)
    }
}

/// One past the closing quote of the string that opens at `at`, or the end of the text.
fn end_of_string(text: &[u8], at: usize) -> usize {
    let mut next = at + 1;
    while next < text.len() {
        match text[next] {
            b'\\' => next += 2,
            b'"' => return next + 1,
            _ => next += 1,
        }
    }
    text.len()
}

fn end_of_integer(text: &[u8], at: usize) -> usize {
    let digits = text[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    at + 1 + digits
}

/// One past the brace that closes the object opening at `at`.
fn end_of_object(text: &[u8], at: usize) -> Result<usize, BodyError> {
    let mut depth = 0;
    let mut next = at;
    while next < text.len() {
        match text[next] {
            b'"' => {
                next = end_of_string(text, next);
                continue;
            }
            b'{' if depth == DEPTH_MAX => return Err(BodyError::TooDeep { at: next }),
            b'{' => depth += 1,
            b'}' if depth == 1 => return Ok(next + 1),
            b'}' => depth -= 1,
            _ => {}
        }
        next += 1;
    }
    Err(BodyError::UnclosedKey { at })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn quoted(text: &str) -> String {
        String::from_utf8(quote_keys(text.as_bytes()).unwrap().into_owned()).unwrap()
    }

    #[test]
    fn bare_integer_keys_are_quoted() {
        assert_eq!(quoted(r#"{0:"a",1 : "b"}"#), r#"{"0":"a","1" : "b"}"#);
        assert_eq!(quoted(r#"{"t":{ -1:[1,2,{3:4}]}}"#), r#"{"t":{ "-1":[1,2,{"3":4}]}}"#);
    }

    #[test]
    fn object_keys_become_text() {
        assert_eq!(
            quoted(r#"{"offsetTable":{{"topic":"t\"}","queueId":0}:5,{"topic":"u"}:6}}"#),
            r#"{"offsetTable":{"{\"topic\":\"t\\\"}\",\"queueId\":0}":5,"{\"topic\":\"u\"}":6}}"#,
        );
    }

    #[test]
    fn queues_as_keys_are_written_as_rocketmq_writes_them() {
        let queue = crate::protocol::body::MessageQueue::new("t", "b\"", 3);
        let table = crate::protocol::body::QueueTable(BTreeMap::from([(queue.clone(), 5)]));
        let text = to_bytes_with_queue_keys(&table);
        assert_eq!(text, &br#"{{"brokerName":"b\"","queueId":3,"topic":"t"}:5}"#[..]);
        let read: crate::protocol::body::QueueTable<i64> = from_slice_tolerant(&text).unwrap();
        assert_eq!(read, table);
        let value = to_bytes_with_queue_keys(&[serde_json::to_string(&queue).unwrap()]);
        assert!(serde_json::from_slice::<Value>(&value).is_ok(), "a value stays a text");
    }

    #[test]
    fn strict_json_is_borrowed_and_strings_are_left_alone() {
        for text in [r#"{"a":"{0:1}","b":[1,2,3],"c":{"d":-1}}"#, "[1,2]", "0", "", r#""\"{0:""#] {
            assert!(matches!(quote_keys(text.as_bytes()), Ok(Cow::Borrowed(_))), "{text}");
        }
    }

    #[test]
    fn trailing_white_space_is_no_matter() {
        let map: BTreeMap<i64, String> = from_slice_tolerant(b"{0:\"a\"}\n \r\n").unwrap();
        assert_eq!(map, BTreeMap::from([(0, "a".to_owned())]));
    }

    /// proves: B14
    #[test]
    fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
        for open in ["[", "{\"a\":", "{0:"] {
            let text = open.repeat(100_000);
            assert!(matches!(quote_keys(text.as_bytes()), Err(BodyError::TooDeep { .. })), "{open}");
        }
        let keys = "{".repeat(100_000);
        assert!(quote_keys(keys.as_bytes()).is_err());
        assert_eq!(quote_keys(br#"{{"a":1"#), Err(BodyError::UnclosedKey { at: 1 }));
    }

    /// proves: B13
    #[test]
    fn every_truncation_is_an_error() {
        let text = br#"{"offsetTable":{{"topic":"t","queueId":0}:5},"addrs":{0:"h:1"}}"#;
        assert!(from_slice_tolerant::<Value>(text).is_ok());
        for len in 0..text.len() {
            assert!(from_slice_tolerant::<Value>(&text[..len]).is_err(), "{len} bytes");
        }
    }

    proptest! {
        /// proves: B13, B17
        #[test]
        fn no_text_makes_it_panic_and_strict_json_is_not_changed(bytes in proptest::collection::vec(
            prop_oneof![Just(b'{'), Just(b'}'), Just(b'"'), Just(b'\\'), Just(b':'), Just(b','), Just(b'7'), any::<u8>()],
            0..200,
        )) {
            let _ = from_slice_tolerant::<Value>(&bytes);
            if serde_json::from_slice::<Value>(&bytes).is_ok() {
                prop_assert!(matches!(quote_keys(&bytes), Ok(Cow::Borrowed(_))));
            }
        }
    }
}
