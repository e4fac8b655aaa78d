//! Key-value settings, kept in memory (nameserver.md §8).

use std::collections::BTreeMap;
use std::fmt;

/// The most settings kept.
pub const ENTRIES_MAX: usize = 10_000;
/// The longest namespace or key, in bytes.
pub const KEY_LEN_MAX: usize = 512;
/// The longest value, in bytes.
pub const VALUE_LEN_MAX: usize = 64 * 1024;

/// Texts by namespace and key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

impl Settings {
    /// Stores a value, replacing an older one.
    ///
    /// # Errors
    /// A limit would be passed.
    pub fn put(&mut self, namespace: String, key: String, value: String) -> Result<(), SettingsFull> {
        let known = self.value(&namespace, &key).is_some();
        let fits = namespace.len() <= KEY_LEN_MAX && key.len() <= KEY_LEN_MAX && value.len() <= VALUE_LEN_MAX;
        if !fits || (!known && self.len() >= ENTRIES_MAX) {
            return Err(SettingsFull);
        }
        self.namespaces.entry(namespace).or_default().insert(key, value);
        Ok(())
    }

    /// Forgets a value; fine when there is none.
    pub fn delete(&mut self, namespace: &str, key: &str) {
        let Some(entries) = self.namespaces.get_mut(namespace) else { return };
        entries.remove(key);
        if entries.is_empty() {
            self.namespaces.remove(namespace);
        }
    }

    /// The value of a key.
    #[must_use]
    pub fn value(&self, namespace: &str, key: &str) -> Option<&str> {
        self.namespaces.get(namespace)?.get(key).map(String::as_str)
    }

    /// All values of a namespace.
    #[must_use]
    pub fn namespace(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces.get(namespace)
    }

    fn len(&self) -> usize {
        self.namespaces.values().map(BTreeMap::len).sum()
    }
}

/// A setting was refused: too many, or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettingsFull;

impl fmt::Display for SettingsFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "at most {ENTRIES_MAX} settings are kept, with keys up to {KEY_LEN_MAX} and values up to \
             {VALUE_LEN_MAX} bytes"
        )
    }
}

impl std::error::Error for SettingsFull {}
