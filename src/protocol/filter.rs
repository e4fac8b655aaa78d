//! Tag expressions: which messages a subscription wants (remoting-protocol §14).
//!
//! A queue entry carries only the 64-bit tag code, so brokers compare codes and consumers, who see
//! the text, remove what merely collided.

use std::collections::BTreeSet;
use std::fmt;

pub use staticfire_storage::tag::code_of as tag_code;

/// The longest expression taken, in bytes.
pub const EXPRESSION_LEN_MAX: usize = 16 * 1024;

/// What a tag expression asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagFilter {
    /// `*` or an empty expression.
    All,
    /// Messages with one of these tags.
    AnyOf {
        /// The tags as text, for consumers.
        tags: BTreeSet<String>,
        /// Their codes, for brokers.
        codes: BTreeSet<i64>,
    },
}

impl TagFilter {
    /// Reads `*`, an empty text, or tags separated by `||`.
    ///
    /// # Errors
    /// The expression is longer than [`EXPRESSION_LEN_MAX`] or holds no tag.
    pub fn parse(expression: &str) -> Result<Self, FilterError> {
        if expression.len() > EXPRESSION_LEN_MAX {
            return Err(FilterError::TooLong { len: expression.len() });
        }
        if matches!(expression.trim(), "" | "*") {
            return Ok(Self::All);
        }
        let tags: BTreeSet<String> =
            expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
        if tags.is_empty() {
            return Err(FilterError::NoTag);
        }
        Ok(Self::of_tags(tags))
    }

    /// Messages with one of `tags`.
    #[must_use]
    pub fn of_tags(tags: BTreeSet<String>) -> Self {
        let codes = tags.iter().map(|tag| tag_code(tag)).collect();
        Self::AnyOf { tags, codes }
    }

    /// Does a queue entry with this code belong to the subscription, collisions included?
    #[must_use]
    pub fn matches_code(&self, code: i64) -> bool {
        match self {
            Self::All => true,
            Self::AnyOf { codes, .. } => codes.contains(&code),
        }
    }

    /// Does a message with this tag belong to the subscription?
    #[must_use]
    pub fn matches_tag(&self, tag: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::AnyOf { tags, .. } => tag.is_some_and(|tag| tags.contains(tag)),
        }
    }
}

/// Why an expression is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterError {
    /// The expression has more than [`EXPRESSION_LEN_MAX`] bytes.
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// There are separators but no tag between them.
    NoTag,
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len } => {
                write!(f, "the tag expression has {len} bytes, at most {EXPRESSION_LEN_MAX} are allowed")
            }
            Self::NoTag => f.write_str("the tag expression names no tag; write `*` for all messages"),
        }
    }
}

impl std::error::Error for FilterError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_a_set_of_tags() {
        assert_eq!(TagFilter::parse("*"), Ok(TagFilter::All));
        assert_eq!(TagFilter::parse("  "), Ok(TagFilter::All));
        let filter = TagFilter::parse(" TagA||TagB || ").unwrap();
        assert!(filter.matches_code(2_598_919) && filter.matches_code(2_598_920) && !filter.matches_code(0));
        assert!(filter.matches_tag(Some("TagA")) && !filter.matches_tag(Some("tagA")));
        assert!(!filter.matches_tag(None));
    }

    /// proves: B39
    #[test]
    fn senseless_expressions_are_refused() {
        assert_eq!(TagFilter::parse("||"), Err(FilterError::NoTag));
        assert_eq!(TagFilter::parse(&"a".repeat(1 << 20)), Err(FilterError::TooLong { len: 1 << 20 }));
    }

    /// A collision passes the broker and stops at the consumer.
    #[test]
    fn colliding_tags_share_a_code_and_not_a_subscription() {
        let filter = TagFilter::parse("Aa").unwrap();
        assert!(filter.matches_code(tag_code("BB")));
        assert!(!filter.matches_tag(Some("BB")));
    }
}
