//! Configuration of the consumer groups a broker knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::state::record::Row;
use super::topics::Revision;
use crate::protocol::body::{DataVersion, SubscriptionGroupConfig, SubscriptionGroupTable};
use crate::protocol::names::GroupName;

/// Groups kept at most.
pub const GROUPS_MAX: usize = 100_000;

/// Groups that tools use; they exist from the start.
const SYSTEM_GROUPS: [&str; 6] = [
    "TOOLS_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
];

/// All consumer groups of a broker.
#[derive(Debug)]
pub struct Groups {
    groups: BTreeMap<GroupName, Arc<SubscriptionGroupConfig>>,
    version: DataVersion,
    revision: Revision,
    auto_create: bool,
    /// Groups changed and not yet in the log of the broker group; `None`: nobody takes them there.
    unlogged: Option<BTreeSet<GroupName>>,
}

impl Groups {
    /// The system groups, and those read from disk. With `auto_create` a group comes to be when
    /// a client first names it.
    #[must_use]
    pub fn new(auto_create: bool, stored: SubscriptionGroupTable) -> Self {
        let mut groups = Self {
            groups: BTreeMap::new(),
            version: stored.data_version,
            revision: Revision::default(),
            auto_create,
            unlogged: None,
        };
        let stored = stored.subscription_group_table.into_iter();
        let system =
            SYSTEM_GROUPS.iter().map(|name| ((*name).to_owned(), SubscriptionGroupConfig::new(*name)));
        for (name, mut config) in system.chain(stored) {
            if let Ok(group) = GroupName::new(&name) {
                config.group_name = name;
                groups.groups.insert(group, Arc::new(config));
            }
        }
        groups
    }

    /// The group of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<SubscriptionGroupConfig>> {
        self.groups.get(name)
    }

    /// The group of this name, with its name to share.
    #[must_use]
    pub fn get_named(&self, name: &str) -> Option<(GroupName, Arc<SubscriptionGroupConfig>)> {
        self.groups.get_key_value(name).map(|(name, config)| (name.clone(), Arc::clone(config)))
    }

    /// The group of this name, created with the defaults when that is allowed. `None`: unknown.
    pub fn ensure(&mut self, name: &GroupName, now_ms: i64) -> Option<Arc<SubscriptionGroupConfig>> {
        if !self.groups.contains_key(name) {
            if !self.auto_create || self.groups.len() >= GROUPS_MAX {
                return None;
            }
            self.store(name.clone(), SubscriptionGroupConfig::new(name.as_str()), now_ms);
        }
        self.groups.get(name).cloned()
    }

    /// Creates or changes a group; false when there are too many.
    pub fn put(&mut self, name: GroupName, config: SubscriptionGroupConfig, now_ms: i64) -> bool {
        match self.groups.get(&name) {
            Some(known) if **known == config => return true,
            None if self.groups.len() >= GROUPS_MAX => return false,
            _ => {}
        }
        self.store(name, config, now_ms);
        true
    }

    /// Removes a group; false when there is none.
    pub fn remove(&mut self, name: &str, now_ms: i64) -> bool {
        let known = self.groups.remove_entry(name);
        if let Some((name, _)) = &known {
            self.change(now_ms);
            self.log_later(name);
        }
        known.is_some()
    }

    /// From here on changes are kept for [`Groups::take_changes`], with `all` every group there is.
    pub fn log_changes(&mut self, all: bool) {
        self.unlogged = Some(self.groups.keys().filter(|_| all).cloned().collect());
    }

    /// From here on they are not.
    pub fn stop_logging(&mut self) {
        self.unlogged = None;
    }

    /// The groups that changed since this was last asked, as they are now.
    pub fn take_changes(&mut self) -> Vec<Row> {
        let names = self.unlogged.as_mut().map(std::mem::take).unwrap_or_default();
        let row = |name: GroupName| match self.groups.get(&name) {
            Some(config) => Row::Group(name, Arc::clone(config)),
            None => Row::GroupGone(name),
        };
        names.into_iter().map(row).collect()
    }

    /// What was taken did not get into the log.
    pub fn log_later(&mut self, name: &GroupName) {
        self.unlogged.as_mut().map(|names| names.insert(name.clone()));
    }

    /// What the log of the broker group says of a group; `None`: it is deleted.
    pub fn follow(&mut self, name: &GroupName, config: Option<&Arc<SubscriptionGroupConfig>>, now_ms: i64) {
        if self.groups.get(name) == config {
            return;
        }
        self.change(now_ms);
        match config {
            Some(config) => drop(self.groups.insert(name.clone(), Arc::clone(config))),
            None => drop(self.groups.remove(name)),
        }
    }

    /// What the log of the broker group says of all groups but those of tools.
    pub fn follow_all(&mut self, groups: &BTreeMap<GroupName, Arc<SubscriptionGroupConfig>>, now_ms: i64) {
        let gone = |name: &&GroupName| !groups.contains_key(*name) && !SYSTEM_GROUPS.contains(&name.as_str());
        let gone: Vec<GroupName> = self.groups.keys().filter(gone).cloned().collect();
        gone.iter().for_each(|name| self.follow(name, None, now_ms));
        groups.iter().for_each(|(name, config)| self.follow(name, Some(config), now_ms));
    }

    /// The number of the newest change.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// What goes to disk and to whoever asks.
    #[must_use]
    pub fn table(&self) -> SubscriptionGroupTable {
        let named = self
            .groups
            .iter()
            .map(|(name, config)| (name.to_string(), SubscriptionGroupConfig::clone(config)));
        SubscriptionGroupTable {
            data_version: self.version,
            subscription_group_table: named.collect(),
            ..SubscriptionGroupTable::default()
        }
    }

    fn store(&mut self, name: GroupName, config: SubscriptionGroupConfig, now_ms: i64) {
        self.log_later(&name);
        self.groups.insert(name, Arc::new(config));
        self.change(now_ms);
    }

    fn change(&mut self, now_ms: i64) {
        self.revision.0 += 1;
        self.version = self.version.next(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str) -> GroupName {
        GroupName::new(name).unwrap()
    }

    #[test]
    fn a_group_comes_to_be_when_it_is_named_unless_that_is_turned_off() {
        let mut groups = Groups::new(true, SubscriptionGroupTable::default());
        assert_eq!(groups.ensure(&group("g"), 0).unwrap().retry_max_times, 16);
        assert_eq!(groups.revision(), Revision(1));
        groups.ensure(&group("g"), 0).unwrap();
        assert_eq!(groups.revision(), Revision(1));

        let mut strict = Groups::new(false, groups.table());
        assert!(strict.ensure(&group("g"), 0).is_some(), "known from disk");
        assert!(strict.ensure(&group("h"), 0).is_none());
        assert!(strict.get("TOOLS_CONSUMER").is_some());
    }

    #[test]
    fn changes_are_counted_and_repetitions_are_not() {
        let mut groups = Groups::new(true, SubscriptionGroupTable::default());
        let config = SubscriptionGroupConfig { retry_max_times: 3, ..SubscriptionGroupConfig::new("g") };
        assert!(groups.put(group("g"), config.clone(), 0) && groups.put(group("g"), config, 0));
        assert_eq!(groups.revision(), Revision(1));
        assert!(groups.remove("g", 0) && !groups.remove("g", 0));
        assert_eq!(groups.revision(), Revision(2));
    }
}
