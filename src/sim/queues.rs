//! Queues are a function of the log.

use std::collections::BTreeMap;

use staticfire_replication::CONTROL_TOPIC;
use staticfire_storage::{QueueEntry, QueueId, Store, tag};

use super::Violation;
use crate::protocol::names::SCHEDULE_TOPIC;

/// Entries read at a time.
const PORTION: usize = 1024;

/// Holds every queue of a store against one built from its log: the same entries, numbered without
/// gap, in the order of the log.
///
/// proves: I13, I14, I15
///
/// # Errors
/// The first difference.
pub fn check(store: &Store) -> Result<(), Violation> {
    let marks = store.marks();
    let mut built: BTreeMap<(String, QueueId), Vec<QueueEntry>> = BTreeMap::new();
    for record in store.records(marks.min) {
        let record = record.map_err(|error| Violation::new("I18", format!("in the log: {error}")))?;
        if record.physical() >= marks.dispatched {
            break;
        }
        // Records of the replication itself are in no queue.
        if record.topic() == CONTROL_TOPIC {
            continue;
        }
        let entry = QueueEntry {
            physical: record.physical(),
            size: record.len(),
            tags_code: tag::tags_code(&record),
            offset: record.queue_offset(),
            messages: 1,
        };
        built.entry((record.topic().to_owned(), record.queue())).or_default().push(entry);
    }
    for ((topic, id), entries) in &built {
        compare(store, topic, *id, entries)?;
    }
    for topic in store.topics() {
        let invented = store.queues_of(topic.as_str()).into_iter().find(|queue| {
            queue.max() > queue.min() && !built.contains_key(&(topic.as_str().to_owned(), queue.id()))
        });
        if let Some(queue) = invented {
            let what = format!("{topic} {} has entries and no record in the log", queue.id());
            return Err(Violation::new("I15", what));
        }
    }
    Ok(())
}

fn compare(store: &Store, topic: &str, id: QueueId, built: &[QueueEntry]) -> Result<(), Violation> {
    let violation = |invariant, what: String| Violation::new(invariant, format!("{topic} {id}: {what}"));
    let wrong = |invariant, what| Err(violation(invariant, what));
    let gap = built.windows(2).find(|pair| pair[1].offset.0 != pair[0].offset.0 + 1);
    if let Some([before, after]) = gap {
        return wrong("I14", format!("after {} comes {}", before.offset, after.offset));
    }
    let Some(queue) = store.queue(topic, id) else { return wrong("I13", "it is missing".to_owned()) };
    let (Some(first), Some(last)) = (built.first(), built.last()) else { return Ok(()) };
    if queue.max().0 != last.offset.0 + 1 {
        return wrong("I13", format!("it ends at {}, its records at {}", queue.max(), last.offset.0 + 1));
    }
    let mut at = first.offset;
    while at < queue.max() {
        let entries = queue.entries(at, PORTION);
        let entries = entries.map_err(|error| violation("I13", format!("from {at} on: {error}")))?;
        if entries.is_empty() {
            return wrong("I13", format!("it gives nothing from {at} on"));
        }
        for entry in entries {
            let expected = &built[usize::try_from(entry.offset.0 - first.offset.0).unwrap_or(usize::MAX)];
            // The schedule topic keeps delivery times where others have the hash of their tags.
            let scheduled = topic == SCHEDULE_TOPIC;
            let expected = QueueEntry {
                tags_code: if scheduled { entry.tags_code } else { expected.tags_code },
                ..*expected
            };
            if entry != expected {
                return wrong("I15", format!("{entry:?} should be {expected:?}"));
            }
            at.0 = entry.offset.0 + 1;
        }
    }
    Ok(())
}
