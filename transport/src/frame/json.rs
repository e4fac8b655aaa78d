//! The JSON header, as lenient as peers need it (remoting-protocol §1.3) and no more: numbers may
//! be quoted, nulls equal absence, field values may be numbers or booleans, the language may be
//! its ordinal, unknown keys are skipped. Duplicate keys and a missing `code` are errors.

use std::fmt::{self, Display};

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{FIELDS_MAX, FrameError};
use crate::ext_fields::{Name, Place};
use crate::{Command, ExtFields, Language, SendError};

/// How deep an ignored value may be nested.
const DEPTH_MAX: usize = 16;

/// Fields a decoder reserves space for: more than a send has.
const FIELDS_EXPECTED: usize = 16;

pub(super) fn decode(header: &[u8]) -> Result<Command, FrameError> {
    // Checked once here, not for every text on its own.
    let header = std::str::from_utf8(header).map_err(|error| FrameError::Json(error.to_string()))?;
    let mut json = serde_json::Deserializer::from_str(header);
    let read = json.deserialize_map(Header { text: header }).and_then(|command| json.end().map(|()| command));
    let command = read.map_err(|error| FrameError::Json(error.to_string()))?;
    super::checked_texts(command.remark.as_deref(), &command.ext)?;
    Ok(command)
}

/// Writes the keys in the order of the alphabet, as RocketMQ does.
pub(super) fn encode(command: &Command, out: &mut Vec<u8>) -> Result<(), SendError> {
    write(out, b"{\"code\":", &command.code)?;
    if !command.ext.is_empty() {
        // Asked once for all texts: escaping them one by one costs more than all the rest.
        let plain = is_plain(command.ext.text());
        let mut before = &b",\"extFields\":{"[..];
        for (name, value) in command.ext.iter() {
            write_text(out, before, name, plain)?;
            write_text(out, b":", value, plain)?;
            before = b",";
        }
        out.push(b'}');
    }
    write(out, b",\"flag\":", &command.flag)?;
    write_text(out, b",\"language\":", command.language.name(), true)?;
    write(out, b",\"opaque\":", &command.opaque)?;
    if let Some(remark) = &command.remark {
        write_text(out, b",\"remark\":", remark, false)?;
    }
    write(out, b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":", &command.version)?;
    out.push(b'}');
    Ok(())
}

fn write(out: &mut Vec<u8>, before: &[u8], value: &(impl Serialize + ?Sized)) -> Result<(), SendError> {
    out.extend_from_slice(before);
    serde_json::to_writer(out, value).map_err(|_| SendError::Inexpressible)
}

/// Writes a text, which if it is known to be plain needs nothing but its quotes.
fn write_text(out: &mut Vec<u8>, before: &[u8], text: &str, plain: bool) -> Result<(), SendError> {
    if !plain {
        return write(out, before, text);
    }
    out.extend_from_slice(before);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
    Ok(())
}

/// True when no character needs an escape. Without a branch, so that the compiler looks at many at a time.
fn is_plain(text: &str) -> bool {
    !text.bytes().fold(false, |found, byte| found | (byte < b' ') | (byte == b'"') | (byte == b'\\'))
}

/// The keys that mean something.
#[derive(Clone, Copy)]
enum Key {
    Code,
    ExtFields,
    Flag,
    Language,
    Opaque,
    Remark,
    Version,
    Other,
}

struct AnyKey;

impl<'de> DeserializeSeed<'de> for AnyKey {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Key, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for AnyKey {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Key, E> {
        Ok(match key {
            "code" => Key::Code,
            "extFields" => Key::ExtFields,
            "flag" => Key::Flag,
            "language" => Key::Language,
            "opaque" => Key::Opaque,
            "remark" => Key::Remark,
            "version" => Key::Version,
            _ => Key::Other,
        })
    }
}

/// The whole header.
struct Header<'de> {
    text: &'de str,
}

impl<'de> Visitor<'de> for Header<'de> {
    type Value = Command;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a header object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Command, A::Error> {
        let mut command = Command::request(0);
        command.version = 0;
        let (mut seen, mut coded) = (0u8, false);
        while let Some(key) = map.next_key_seed(AnyKey)? {
            let bit = 1u8 << key as u8;
            if seen & bit != 0 && !matches!(key, Key::Other) {
                return Err(A::Error::custom("duplicate key"));
            }
            seen |= bit;
            match key {
                Key::Code => {
                    let code = map.next_value_seed(Integer)?;
                    coded = code.is_some();
                    command.code = code.unwrap_or(0);
                }
                Key::Flag => command.flag = map.next_value_seed(Integer)?.unwrap_or(0),
                Key::Opaque => command.opaque = map.next_value_seed(Integer)?.unwrap_or(0),
                Key::Version => command.version = map.next_value_seed(Integer)?.unwrap_or(0),
                Key::Language => command.language = map.next_value_seed(AnyLanguage)?,
                Key::Remark => command.remark = map.next_value_seed(Remark)?,
                Key::ExtFields => command.ext = map.next_value_seed(Fields { header: self.text })?,
                Key::Other => map.next_value_seed(Ignored { depth: 1 })?,
            }
        }
        if coded { Ok(command) } else { Err(A::Error::custom("no code")) }
    }
}

/// An `i32` as a number or its text; `None` for null.
struct Integer;

impl<'de> DeserializeSeed<'de> for Integer {
    type Value = Option<i32>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl Visitor<'_> for Integer {
    type Value = Option<i32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a 32-bit integer")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        i32::try_from(number).map(Some).map_err(|_| E::custom("not a 32-bit integer"))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        i32::try_from(number).map(Some).map_err(|_| E::custom("not a 32-bit integer"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        text.parse().map(Some).map_err(|_| E::custom("not a 32-bit integer"))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// A language by name or number.
struct AnyLanguage;

impl<'de> DeserializeSeed<'de> for AnyLanguage {
    type Value = Language;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Language, D::Error> {
        from.deserialize_any(self)
    }
}

impl Visitor<'_> for AnyLanguage {
    type Value = Language;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a language")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Language, E> {
        Ok(Language::from_name(name))
    }

    fn visit_u64<E: Error>(self, code: u64) -> Result<Language, E> {
        Ok(u8::try_from(code).map_or(Language::Unknown, Language::from_code))
    }

    fn visit_i64<E: Error>(self, _code: i64) -> Result<Language, E> {
        Ok(Language::Unknown)
    }

    fn visit_unit<E: Error>(self) -> Result<Language, E> {
        Ok(Language::default())
    }
}

/// A remark; null and the empty text equal absence.
struct Remark;

impl<'de> DeserializeSeed<'de> for Remark {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl Visitor<'_> for Remark {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a remark")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// The object of named fields, or null.
struct Fields<'de> {
    header: &'de str,
}

impl<'de> DeserializeSeed<'de> for Fields<'de> {
    type Value = ExtFields;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<ExtFields, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fields<'de> {
    type Value = ExtFields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of fields")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ExtFields, A::Error> {
        let header = self.header;
        let mut ext = ExtFields::within(header, FIELDS_EXPECTED);
        let mut entries = 0;
        while let Some(name) = map.next_key_seed(NewName { ext: &mut ext, header })? {
            if let Some(value) = map.next_value_seed(Value { ext: &mut ext, header })? {
                ext.insert(name, value);
            }
            entries += 1;
            if entries > FIELDS_MAX {
                return Err(A::Error::custom("too many fields"));
            }
        }
        Ok(ext)
    }

    fn visit_unit<E: Error>(self) -> Result<ExtFields, E> {
        Ok(ExtFields::new())
    }
}

struct NewName<'a, 'de> {
    ext: &'a mut ExtFields,
    header: &'de str,
}

impl<'de> DeserializeSeed<'de> for NewName<'_, 'de> {
    type Value = Name;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Name, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for NewName<'_, '_> {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Name, E> {
        self.ext.name(self.header, name).ok_or_else(|| E::custom("duplicate field"))
    }
}

/// Text, or a number or boolean that becomes its text; `None` for null, which equals absence.
struct Value<'a, 'de> {
    ext: &'a mut ExtFields,
    header: &'de str,
}

impl Value<'_, '_> {
    fn display<E: Error>(self, value: impl Display) -> Result<Option<Place>, E> {
        self.visit_str(&value.to_string())
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_, 'de> {
    type Value = Option<Place>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Option<Place>, D::Error> {
        from.deserialize_any(self)
    }
}

impl Visitor<'_> for Value<'_, '_> {
    type Value = Option<Place>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, a boolean or null")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<Place>, E> {
        Ok(Some(self.ext.place(self.header, text)))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Option<Place>, E> {
        self.display(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Option<Place>, E> {
        self.display(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Option<Place>, E> {
        self.display(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Option<Place>, E> {
        self.display(value)
    }

    fn visit_unit<E: Error>(self) -> Result<Option<Place>, E> {
        Ok(None)
    }
}

/// Any value, checked and dropped. `IgnoredAny` would follow any nesting.
#[derive(Clone, Copy)]
struct Ignored {
    depth: usize,
}

impl Ignored {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom("nested too deep"));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Ignored {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Ignored {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        while seq.next_element_seed(deeper)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(deeper)?;
        }
        Ok(())
    }
}
