//! The named fields of a header: all texts in one string, found by a linear search.
//!
//! ```text
//!   text     { " c o d e " : 3 1 0 , " e x t F i e l d s " : { " a " : " P G " , …  escaped value
//!   fields                                                       ^       ^          ^
//!                                                                name    value      value
//! ```
//! A decoded header is copied as it stands and its names and values are places in it; what had
//! escapes, and what is set later, is added at the end. A send has a dozen fields with names of one
//! letter; two allocations hold them all.

use std::fmt::{self, Write as _};

/// Header fields in the order in which they were set; every name once.
#[derive(Clone, Default)]
pub struct ExtFields {
    text: String,
    fields: Vec<Field>,
    /// One bit per [`bit`] of a name: tells most absent names without a search.
    seen: u64,
}

#[derive(Clone, Copy)]
struct Field {
    name: Place,
    value: Place,
}

/// Where a name or value stands in the text.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    start: u32,
    end: u32,
}

/// A name without its value.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    place: Place,
    bit: u64,
}

impl Place {
    fn between(start: usize, end: usize) -> Self {
        let end = u32::try_from(end).expect("header fields stay far below 4 GiB");
        // The start is not behind the end.
        Self { start: start as u32, end }
    }
}

impl ExtFields {
    /// No fields.
    #[must_use]
    pub const fn new() -> Self {
        Self { text: String::new(), fields: Vec::new(), seen: 0 }
    }

    /// No fields yet, but space for `fields` of them with `bytes` of text.
    #[must_use]
    pub fn with_capacity(fields: usize, bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes), fields: Vec::with_capacity(fields), seen: 0 }
    }

    /// No fields yet, but space for `fields` of them whose texts mostly stand in `header`; see
    /// [`Self::place`].
    pub(crate) fn within(header: &str, fields: usize) -> Self {
        // Properties have escapes, and their value without them comes to stand at the end.
        let mut ext = Self::with_capacity(fields, header.len() + header.len() / 2);
        ext.text.push_str(header);
        ext
    }

    /// Sets `name` to `value`, replacing an earlier value. The space of that one is not used again.
    ///
    /// # Panics
    /// If all texts together exceed 4 GiB.
    pub fn push(&mut self, name: &str, value: impl fmt::Display) {
        let name = self.replaced(name);
        let start = self.text.len();
        // A `Display` that fails leaves what it wrote so far; no standard type does.
        let _ = write!(self.text, "{value}");
        let value = Place::between(start, self.text.len());
        self.insert(name, value);
    }

    /// [`Self::push`] of a text, without the detour over formatting.
    ///
    /// # Panics
    /// As [`Self::push`].
    pub fn set(&mut self, name: &str, value: &str) {
        let name = self.replaced(name);
        let value = self.add(value);
        self.insert(name, value);
    }

    fn replaced(&mut self, name: &str) -> Name {
        self.remove(name);
        Name { place: self.add(name), bit: bit(name) }
    }

    /// The name of a new field, a part of `header` or of something else; `None` if there is one of
    /// this name.
    pub(crate) fn name(&mut self, header: &str, name: &str) -> Option<Name> {
        let bit = bit(name);
        if self.seen & bit != 0 && self.find(name).is_some() {
            return None;
        }
        Some(Name { place: self.place(header, name), bit })
    }

    /// Where `text` stands if it is a part of the `header` that these fields were made
    /// [`within`](Self::within); else it is added.
    pub(crate) fn place(&mut self, header: &str, text: &str) -> Place {
        let start = text.as_ptr().addr().wrapping_sub(header.as_ptr().addr());
        let end = start.wrapping_add(text.len());
        if start <= end && end <= header.len() { Place::between(start, end) } else { self.add(text) }
    }

    fn add(&mut self, text: &str) -> Place {
        let start = self.text.len();
        self.text.push_str(text);
        Place::between(start, self.text.len())
    }

    /// Sets a field that is not there yet.
    pub(crate) fn insert(&mut self, name: Name, value: Place) {
        self.seen |= name.bit;
        self.fields.push(Field { name: name.place, value });
    }

    fn at(&self, place: Place) -> &str {
        &self.text[place.start as usize..place.end as usize]
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.find(name).map(|at| self.at(self.fields[at].value))
    }

    /// Removes `name`; true if it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(at) = self.find(name) else { return false };
        self.fields.remove(at);
        true
    }

    /// All fields in the order in which they were set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|field| (self.at(field.name), self.at(field.value)))
    }

    /// How many fields there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.fields.len()
    }

    /// True without any field.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Bytes of the longest name and of the longest value.
    pub(crate) fn longest(&self) -> (usize, usize) {
        let len = |place: Place| place.end - place.start;
        let longest = |(name, value): (u32, u32), field: &Field| {
            (name.max(len(field.name)), value.max(len(field.value)))
        };
        let (name, value) = self.fields.iter().fold((0, 0), longest);
        (name as usize, value as usize)
    }

    /// A text with all names and values in it.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn find(&self, name: &str) -> Option<usize> {
        if self.seen & bit(name) == 0 {
            return None;
        }
        self.fields.iter().position(|field| self.at(field.name) == name)
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
