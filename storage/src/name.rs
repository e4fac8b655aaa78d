//! Topic names, validated before any path is built from them.
//!
//! Rules: store-format §9 and DESIGN D9. The name itself is the directory, as RocketMQ's layout
//! demands; the alphabet holds neither a separator nor a dot.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The longest ordinary topic name, in bytes.
pub const TOPIC_LEN_MAX: usize = 127;
/// The longest name of a retry or dead-letter topic, in bytes.
pub const DERIVED_TOPIC_LEN_MAX: usize = 255;

/// The name of a topic: 1 to 127 bytes of `[%|A-Za-z0-9_-]`, up to 255 when it starts with
/// `%RETRY%` or `%DLQ%`. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks `name` and takes it.
    ///
    /// # Errors
    /// [`NameError`] says which rule the name breaks.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let derived = name.starts_with("%RETRY%") || name.starts_with("%DLQ%");
        let max = if derived { DERIVED_TOPIC_LEN_MAX } else { TOPIC_LEN_MAX };
        check(name, max)?;
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// The name is empty.
    Empty,
    /// The name has more bytes than allowed.
    TooLong {
        /// Length of the name in bytes.
        len: usize,
        /// Longest allowed name in bytes.
        max: usize,
    },
    /// The name holds a character outside `[%|A-Za-z0-9_-]`.
    Character {
        /// The first such character.
        found: char,
        /// Its position in bytes.
        at: usize,
    },
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the name is empty"),
            Self::TooLong { len, max } => write!(f, "the name has {len} bytes, at most {max} are allowed"),
            Self::Character { found, at } => {
                write!(f, "the name holds {found:?} at byte {at}; allowed are letters, digits and %|_-")
            }
        }
    }
}

impl std::error::Error for NameError {}

/// Checks `name` against the alphabet shared by topics and groups and against a length in bytes.
///
/// # Errors
/// [`NameError`] says which rule the name breaks.
pub fn check(name: &str, max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > max {
        return Err(NameError::TooLong { len: name.len(), max });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '%' | '|' | '_' | '-');
    match name.char_indices().find(|(_, c)| !allowed(*c)) {
        Some((at, found)) => Err(NameError::Character { found, at }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// proves: B30
    #[test]
    fn a_name_that_could_leave_its_directory_is_refused() {
        for bad in
            ["", "..", "../x", "/x", "a/b", "a\\b", "C:x", ".", "a\0", "a\n", "a b", "😀", "a.", "%2e%2e."]
        {
            assert!(TopicName::new(bad).is_err(), "{bad:?}");
        }
        // Nobody decodes `%2e`, and only other systems than ours open a device by the name of CON.
        for good in ["orders", "%RETRY%group", "a|b", "A-1_2", "CON", "%2e%2e", "%2F", "%00"] {
            assert!(TopicName::new(good).is_ok(), "{good:?}");
        }
    }

    /// proves: B30
    #[test]
    fn length_limits_depend_on_the_prefix() {
        assert!(TopicName::new(&"t".repeat(127)).is_ok());
        assert_eq!(TopicName::new(&"t".repeat(128)), Err(NameError::TooLong { len: 128, max: 127 }));
        assert!(TopicName::new(&format!("%RETRY%{}", "g".repeat(248))).is_ok());
        assert!(TopicName::new(&format!("%RETRY%{}", "g".repeat(249))).is_err());
    }
}
