//! The named fields of a header: all texts in one string, found by a linear search.
//!
//! ```text
//!   text   a P G b T o p i c T e s t c T B W 1 0 2 …
//!   spans  ^name ^value end ^name …      8 bytes per field: where its name and its value end
//! ```
//! A send has a dozen fields with names of one letter; two allocations hold them all.

use std::fmt::{self, Write as _};

/// Header fields in the order in which they were set; every name once.
#[derive(Clone, Default)]
pub struct ExtFields {
    text: String,
    spans: Vec<Span>,
    /// One bit per [`bit`] of a name: tells most absent names without a search.
    seen: u64,
}

/// Where a field ends; it begins where the one before ends.
#[derive(Clone, Copy)]
struct Span {
    name_end: u32,
    value_end: u32,
}

/// A field without its value.
#[derive(Clone, Copy)]
pub(crate) struct Begun {
    start: usize,
    name_end: u32,
    bit: u64,
}

impl ExtFields {
    /// No fields.
    #[must_use]
    pub const fn new() -> Self {
        Self { text: String::new(), spans: Vec::new(), seen: 0 }
    }

    /// No fields yet, but space for `fields` of them with `bytes` of text.
    #[must_use]
    pub fn with_capacity(fields: usize, bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes), spans: Vec::with_capacity(fields), seen: 0 }
    }

    /// Sets `name` to `value`, replacing an earlier value.
    ///
    /// # Panics
    /// If all fields together exceed 4 GiB.
    pub fn push(&mut self, name: &str, value: impl fmt::Display) {
        let begun = self.replace(name);
        // A `Display` that fails leaves what it wrote so far; no standard type does.
        let _ = write!(self.text, "{value}");
        self.finish(begun, "");
    }

    /// [`Self::push`] of a text, without the detour over formatting.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        let begun = self.replace(name);
        self.finish(begun, value);
    }

    /// Begins a field that [`Self::finish`] or [`Self::abandon`] ends; `None` if there is one of
    /// this name.
    pub(crate) fn begin(&mut self, name: &str) -> Option<Begun> {
        if self.find(name).is_some() {
            return None;
        }
        let start = self.text.len();
        self.text.push_str(name);
        Some(Begun { start, name_end: self.end(), bit: bit(name) })
    }

    fn replace(&mut self, name: &str) -> Begun {
        if let Some(begun) = self.begin(name) {
            return begun;
        }
        self.remove(name);
        self.begin(name).expect("a field that was removed is not there")
    }

    /// Gives the field its value, or what is left of it.
    pub(crate) fn finish(&mut self, begun: Begun, value: &str) {
        self.text.push_str(value);
        self.seen |= begun.bit;
        self.spans.push(Span { name_end: begun.name_end, value_end: self.end() });
    }

    /// Forgets the field.
    pub(crate) fn abandon(&mut self, begun: Begun) {
        self.text.truncate(begun.start);
    }

    fn end(&self) -> u32 {
        u32::try_from(self.text.len()).expect("header fields stay far below 4 GiB")
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.find(name).map(|at| self.field(at).1)
    }

    /// Removes `name`; true if it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(at) = self.find(name) else { return false };
        let start = self.start(at);
        let gone = self.spans.remove(at).value_end - start;
        self.text.drain(start as usize..(start + gone) as usize);
        for span in &mut self.spans[at..] {
            span.name_end -= gone;
            span.value_end -= gone;
        }
        true
    }

    /// All fields in the order in which they were set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        (0..self.spans.len()).map(|at| self.field(at))
    }

    /// How many fields there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.spans.len()
    }

    /// True without any field.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes of the longest name and of the longest value.
    pub(crate) fn longest(&self) -> (usize, usize) {
        let (mut start, mut name, mut value) = (0, 0, 0);
        for span in &self.spans {
            name = name.max(span.name_end - start);
            value = value.max(span.value_end - span.name_end);
            start = span.value_end;
        }
        (name as usize, value as usize)
    }

    /// All names and values, one after the other.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn find(&self, name: &str) -> Option<usize> {
        if self.seen & bit(name) == 0 {
            return None;
        }
        let mut start = 0;
        self.spans.iter().position(|span| {
            let found = &self.text.as_bytes()[start..span.name_end as usize];
            start = span.value_end as usize;
            found == name.as_bytes()
        })
    }

    fn start(&self, at: usize) -> u32 {
        at.checked_sub(1).map_or(0, |before| self.spans[before].value_end)
    }

    fn field(&self, at: usize) -> (&str, &str) {
        let Span { name_end, value_end } = self.spans[at];
        let start = self.start(at);
        (&self.text[start as usize..name_end as usize], &self.text[name_end as usize..value_end as usize])
    }
}

/// One of 64 bits, from a name's ends and length.
fn bit(name: &str) -> u64 {
    let at = |byte: Option<&u8>| byte.map_or(0, |byte| usize::from(*byte));
    let bytes = name.as_bytes();
    // Names of one letter, as sends have them, get different bits.
    1 << ((at(bytes.first()) + 2 * at(bytes.last()) + bytes.len()) & 63)
}

impl PartialEq for ExtFields {
    /// Equal if they hold the same fields, in whatever order.
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(name, value)| other.get(name) == Some(value))
    }
}

impl Eq for ExtFields {}

/// Fields whose values a log must not show.
const SECRET: [&str; 3] = ["AccessKey", "SecurityToken", "Signature"];

impl fmt::Debug for ExtFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown =
            self.iter().map(|(name, value)| (name, if SECRET.contains(&name) { "***" } else { value }));
        f.debug_map().entries(shown).finish()
    }
}

impl<N: AsRef<str>, V: fmt::Display> FromIterator<(N, V)> for ExtFields {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let mut ext = Self::new();
        for (name, value) in fields {
            ext.push(name.as_ref(), value);
        }
        ext
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_last_value_of_a_name_wins() {
        let mut ext = ExtFields::new();
        ext.push("a", "one");
        ext.push("b", 2);
        ext.push("a", "three");
        assert_eq!(ext.iter().collect::<Vec<_>>(), [("b", "2"), ("a", "three")]);
        assert!(ext.begin("b").is_none());
        let begun = ext.begin("c").unwrap();
        ext.abandon(begun);
        assert!(ext.remove("b") && !ext.remove("b"));
        assert_eq!((ext.get("a"), ext.get("b"), ext.len()), (Some("three"), None, 1));
    }

    #[test]
    fn credentials_are_not_shown() {
        let ext: ExtFields = [("Signature", "s3cret"), ("topic", "orders")].into_iter().collect();
        assert_eq!(format!("{ext:?}"), r#"{"Signature": "***", "topic": "orders"}"#);
    }

    proptest! {
        #[test]
        fn fields_behave_like_a_map(ops in prop::collection::vec(("[a-c]{0,3}", ".{0,4}", any::<bool>()), 0..40)) {
            let (mut ext, mut model) = (ExtFields::new(), BTreeMap::new());
            for (name, value, set) in ops {
                if set {
                    ext.push(&name, &value);
                    model.insert(name, value);
                } else {
                    prop_assert_eq!(ext.remove(&name), model.remove(&name).is_some());
                }
            }
            let mut found: Vec<_> = ext.iter().collect();
            found.sort_unstable();
            prop_assert_eq!(found, model.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>());
            for (name, value) in &model {
                prop_assert_eq!(ext.get(name), Some(value.as_str()));
            }
        }
    }
}
