//! RocketMQ's binary header.
//!
//! ```text
//! 0          2        3             5            9          13           17
//! +----------+--------+-------------+------------+----------+------------+----- - -
//! | code i16 | lang 8 | version i16 | opaque i32 | flag i32 | remark i32 | remark
//! +----------+--------+-------------+------------+----------+------------+----- - -
//!       +------------+  then up to that length:
//!  - - -| fields i32 |  | name i16 | name | value i32 | value |
//!       +------------+
//! ```
//! Lengths count bytes of UTF-8. Names may repeat: the last value counts.

use bytes::BufMut;

use super::{FIELDS_MAX, FrameError};
use crate::{Command, ExtFields, HeaderEncoding, Language, SendError};

/// A header without remark and fields.
const FIXED: usize = 21;

pub(super) fn decode(header: &[u8]) -> Result<Command, FrameError> {
    let mut from = Cursor { bytes: header, at: 0 };
    let mut command = Command::request(i32::from(from.i16("code")?));
    command.encoding = HeaderEncoding::Binary;
    command.language = Language::from_code(from.array::<1>("language")?[0]);
    command.version = i32::from(from.i16("version")?);
    command.opaque = from.i32("opaque")?;
    command.flag = from.i32("flag")?;
    let remark = from.i32("remark length")?;
    let remark = from.text("remark", remark)?;
    if !remark.is_empty() {
        command.remark = Some(remark.to_owned());
    }
    command.ext = fields(&mut from)?;
    super::checked_texts(command.remark.as_deref(), &command.ext)?;
    Ok(command)
}

fn fields(from: &mut Cursor<'_>) -> Result<ExtFields, FrameError> {
    let length_at = from.at;
    let length = from.i32("fields length")?;
    if usize::try_from(length) != Ok(from.bytes.len() - from.at) {
        return Err(FrameError::Binary { field: "fields length", at: length_at });
    }
    let mut ext = ExtFields::with_capacity(16.min(from.left() / 7), from.left());
    let mut entries = 0;
    while from.left() > 0 {
        entries += 1;
        if entries > FIELDS_MAX {
            return Err(FrameError::Limit { what: "fields", limit: FIELDS_MAX });
        }
        let name_at = from.at;
        let length = from.i16("name length")?;
        let name = from.text("name", i32::from(length))?;
        if name.is_empty() {
            return Err(FrameError::Binary { field: "name", at: name_at });
        }
        let length = from.i32("value length")?;
        ext.set(name, from.text("value", length)?);
    }
    Ok(ext)
}

/// Reads a header from front to back.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    const fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FrameError> {
        let found =
            self.bytes[self.at..].first_chunk::<N>().ok_or(FrameError::Binary { field, at: self.at })?;
        self.at += N;
        Ok(*found)
    }

    fn i16(&mut self, field: &'static str) -> Result<i16, FrameError> {
        self.array(field).map(i16::from_be_bytes)
    }

    fn i32(&mut self, field: &'static str) -> Result<i32, FrameError> {
        self.array(field).map(i32::from_be_bytes)
    }

    fn text(&mut self, field: &'static str, length: i32) -> Result<&'a str, FrameError> {
        let error = FrameError::Binary { field, at: self.at };
        let Some(bytes) = usize::try_from(length).ok().and_then(|length| self.bytes[self.at..].get(..length))
        else {
            return Err(error);
        };
        self.at += bytes.len();
        std::str::from_utf8(bytes).map_err(|_| error)
    }
}

pub(super) fn encode(command: &Command, out: &mut Vec<u8>) -> Result<(), SendError> {
    let remark = command.remark.as_deref().unwrap_or("");
    let fields: usize = command.ext.iter().map(|(name, value)| 6 + name.len() + value.len()).sum();
    out.reserve(FIXED + remark.len() + fields);
    out.put_i16(fit(command.code)?);
    out.put_u8(command.language.code());
    out.put_i16(fit(command.version)?);
    out.put_i32(command.opaque);
    out.put_i32(command.flag);
    out.put_i32(fit(remark.len())?);
    out.put_slice(remark.as_bytes());
    out.put_i32(fit(fields)?);
    for (name, value) in command.ext.iter() {
        if name.is_empty() {
            return Err(SendError::Inexpressible);
        }
        out.put_i16(fit(name.len())?);
        out.put_slice(name.as_bytes());
        out.put_i32(fit(value.len())?);
        out.put_slice(value.as_bytes());
    }
    Ok(())
}

fn fit<A, B: TryFrom<A>>(number: A) -> Result<B, SendError> {
    B::try_from(number).map_err(|_| SendError::Inexpressible)
}
