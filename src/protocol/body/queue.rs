//! A queue by name, and tables that have queues for keys.

use std::collections::BTreeMap;
use std::collections::btree_map;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize as DeserializeDerive, Serialize, Serializer};

use super::lenient;
use crate::protocol::json;

/// One queue of one topic at one broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, DeserializeDerive)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageQueue {
    /// The broker group.
    pub broker_name: String,
    /// Number of the queue.
    #[serde(deserialize_with = "lenient::number")]
    pub queue_id: i32,
    /// The topic.
    pub topic: String,
}

impl MessageQueue {
    /// Names a queue.
    #[must_use]
    pub fn new(topic: impl Into<String>, broker_name: impl Into<String>, queue_id: i32) -> Self {
        Self { broker_name: broker_name.into(), queue_id, topic: topic.into() }
    }
}

/// Something for each of several queues. In JSON the key is a text that holds the queue as an
/// object; RocketMQ writes the object itself, which is read too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueTable<V>(pub BTreeMap<MessageQueue, V>);

impl<V> QueueTable<V> {
    /// The value of a queue.
    #[must_use]
    pub fn of(&self, queue: &MessageQueue) -> Option<&V> {
        self.0.get(queue)
    }

    /// All queues with their values.
    pub fn iter(&self) -> btree_map::Iter<'_, MessageQueue, V> {
        self.0.iter()
    }
}

impl<V> Default for QueueTable<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V> FromIterator<(MessageQueue, V)> for QueueTable<V> {
    fn from_iter<I: IntoIterator<Item = (MessageQueue, V)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<V: Serialize> Serialize for QueueTable<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(queue, value)| (key_text(queue), value)))
    }
}

fn key_text(queue: &MessageQueue) -> String {
    serde_json::to_string(queue).expect("a queue is an object of text and numbers")
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for QueueTable<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(std::marker::PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = QueueTable<V>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a table with queues for keys")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut table = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    let queue = json::from_slice_tolerant(key.as_bytes()).map_err(A::Error::custom)?;
                    table.insert(queue, value);
                }
                Ok(QueueTable(table))
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(QueueTable::default())
            }
        }

        deserializer.deserialize_any(Entries(std::marker::PhantomData))
    }
}
