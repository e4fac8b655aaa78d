//! The topics of a broker: configuration, creation from a template, and what changed since when.
//!
//! Two numbers say that something changed. The *data version* is RocketMQ's, goes to name servers
//! and disk and survives restarts. The *revision* counts changes of this process and tells which
//! of them are persisted and registered ("settled"): a topic is acknowledged only then.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use staticfire_storage::{NameError, TopicName};

use super::state::record::Row;
use crate::protocol::body::{DataVersion, TopicConfig, TopicTable, permission};
use crate::protocol::delay::LEVEL_MAX;
use crate::protocol::names::{self, AUTO_CREATE_TOPIC, SCHEDULE_TOPIC};

/// Queues of one topic at most.
pub const QUEUES_MAX: i32 = 16_384;
/// Bytes of all attributes of a topic or group together.
pub const ATTRIBUTES_MAX: usize = 16 << 10;
/// Queues of the template for topics created by a send.
const TEMPLATE_QUEUES: i32 = 8;

/// Counts changes of a table within this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// A topic with the revision of its last change.
#[derive(Clone, Debug)]
pub struct Topic {
    /// The name, shared with every record made for it.
    pub name: TopicName,
    /// Its configuration.
    pub config: Arc<TopicConfig>,
    /// When it was last changed.
    pub changed: Revision,
}

impl Topic {
    /// Number of queues that exist: whatever producers or consumers may address.
    #[must_use]
    pub fn queues(&self) -> u32 {
        u32::try_from(self.config.read_queue_nums.max(self.config.write_queue_nums)).unwrap_or(0)
    }
}

/// All topics of a broker.
#[derive(Debug)]
pub struct Topics {
    topics: BTreeMap<TopicName, Topic>,
    own: [String; 3],
    version: DataVersion,
    revision: Revision,
    limits: TopicLimits,
    auto_created: usize,
    /// Topics changed and not yet in the log of the group; `None`: nobody takes them there.
    unlogged: Option<BTreeSet<TopicName>>,
}

/// How many topics there may be.
#[derive(Clone, Copy, Debug)]
pub struct TopicLimits {
    /// In all.
    pub total: usize,
    /// Created by a send since the broker started. 0 turns creation by a send off.
    pub auto_created: usize,
    /// Refuse a name that differs from another one by upper and lower case only. A broker sets it when
    /// its file system makes no difference: both would get one directory.
    pub ignoring_case: bool,
}

impl Default for TopicLimits {
    fn default() -> Self {
        Self { total: 100_000, auto_created: 10_000, ignoring_case: false }
    }
}

/// Why a topic was not created or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicError {
    /// The name breaks the rules for names.
    Name(NameError),
    /// The topic is the broker's own.
    System,
    /// A queue count is negative or above [`QUEUES_MAX`].
    Queues(i32),
    /// The permission is not made of the bits inherit 1, write 2 and read 4.
    Permission(i32),
    /// The attributes have more than [`ATTRIBUTES_MAX`] bytes.
    Attributes,
    /// The template does not exist, or does not let topics be made from it.
    Template(String),
    /// A limit of [`TopicLimits`] is reached.
    TooMany(usize),
    /// This topic differs by case only, and the file system makes no difference.
    OtherCase(String),
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => write!(f, "the specified topic is illegal: {error}"),
            Self::System => f.write_str("the topic is conflict with system topic."),
            Self::Queues(found) => write!(f, "{found} queues: a topic has 0 to {QUEUES_MAX}"),
            Self::Permission(found) => write!(f, "permission {found}: allowed are 0 to 7"),
            Self::Attributes => write!(f, "the attributes have more than {ATTRIBUTES_MAX} bytes"),
            Self::Template(name) => write!(f, "no topics can be created from {name:?}"),
            Self::OtherCase(known) => {
                write!(f, "this broker's file system cannot tell the topic from {known:?}")
            }
            Self::TooMany(limit) => write!(f, "the limit of {limit} topics is reached"),
        }
    }
}

impl std::error::Error for TopicError {}

impl Topics {
    /// The system topics of a broker, and those read from disk.
    #[must_use]
    pub fn new(cluster: &str, broker: &str, limits: TopicLimits, stored: TopicTable, now_ms: i64) -> Self {
        let mut topics = Self {
            topics: BTreeMap::new(),
            own: [cluster.to_owned(), broker.to_owned(), format!("{cluster}_REPLY_TOPIC")],
            version: stored.data_version,
            revision: Revision::default(),
            limits,
            auto_created: 0,
            unlogged: None,
        };
        for (name, mut config) in stored.topic_config_table {
            if let Ok(topic) = TopicName::new(&name) {
                config.topic_name = name;
                topics.insert(topic, config);
            }
        }
        let template = if limits.auto_created > 0 { permission::INHERIT } else { 0 } | permission::READ_WRITE;
        for (name, queues, perm) in [
            (AUTO_CREATE_TOPIC, TEMPLATE_QUEUES, template),
            ("SELF_TEST_TOPIC", 1, permission::READ_WRITE),
            ("BenchmarkTest", 1024, permission::READ_WRITE),
            ("OFFSET_MOVED_EVENT", 1, permission::READ_WRITE),
            (SCHEDULE_TOPIC, LEVEL_MAX, permission::READ_WRITE),
            (cluster, 16, template),
            (broker, 1, template),
            (&format!("{cluster}_REPLY_TOPIC"), 1, permission::READ_WRITE),
        ] {
            // A cluster or broker name that is no topic name has no topic of its own.
            if let Ok(topic) = TopicName::new(name)
                && !topics.topics.contains_key(&topic)
            {
                topics.insert(topic, TopicConfig::new(name, queues, perm));
            }
        }
        topics.version = topics.version.next(now_ms);
        topics
    }

    /// The topic of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name)
    }

    /// All topics, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// True for a topic that clients may neither create, change nor delete.
    #[must_use]
    pub fn is_system(&self, name: &str) -> bool {
        names::is_system_topic(name) || self.own.iter().any(|own| own == name)
    }

    /// Creates or changes a topic on behalf of a client. The topic as it is then; its `changed`
    /// is older than [`Topics::revision`] when nothing changed.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub fn put(&mut self, config: TopicConfig, now_ms: i64) -> Result<Topic, TopicError> {
        let name = TopicName::new(&config.topic_name).map_err(TopicError::Name)?;
        if self.is_system(name.as_str()) {
            return Err(TopicError::System);
        }
        for queues in [config.read_queue_nums, config.write_queue_nums] {
            if !(0..=QUEUES_MAX).contains(&queues) {
                return Err(TopicError::Queues(queues));
            }
        }
        if !are_short(&config.attributes) {
            return Err(TopicError::Attributes);
        }
        if !(0..=7).contains(&config.perm) {
            return Err(TopicError::Permission(config.perm));
        }
        self.store(name, config, now_ms)
    }

    /// Creates a topic for the broker itself unless it exists: retry and dead-letter topics.
    ///
    /// # Errors
    /// [`TopicError::TooMany`]
    pub fn ensure(&mut self, name: &TopicName, queues: i32, now_ms: i64) -> Result<Topic, TopicError> {
        if let Some(known) = self.topics.get(name) {
            return Ok(known.clone());
        }
        self.store(name.clone(), TopicConfig::new(name.as_str(), queues, permission::READ_WRITE), now_ms)
    }

    /// Creates a topic because somebody sends to it, as a copy of `template` with at most
    /// `queues` queues.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub fn create_from(
        &mut self,
        template: &str,
        name: &TopicName,
        queues: i32,
        now_ms: i64,
    ) -> Result<Topic, TopicError> {
        if let Some(known) = self.topics.get(name) {
            return Ok(known.clone());
        }
        if self.limits.auto_created == 0 {
            return Err(TopicError::Template(template.to_owned()));
        }
        let from = self.topics.get(template).map(|topic| Arc::clone(&topic.config));
        let from = from.filter(|config| config.perm & permission::INHERIT != 0);
        let from = from.ok_or_else(|| TopicError::Template(template.to_owned()))?;
        if self.auto_created >= self.limits.auto_created {
            return Err(TopicError::TooMany(self.limits.auto_created));
        }
        let queues = queues.min(from.write_queue_nums).max(0);
        let config = TopicConfig {
            topic_filter_type: from.topic_filter_type,
            topic_sys_flag: from.topic_sys_flag,
            ..TopicConfig::new(name.as_str(), queues, from.perm & !permission::INHERIT)
        };
        let created = self.store(name.clone(), config, now_ms)?;
        self.auto_created += 1;
        Ok(created)
    }

    /// Removes a topic; false when there is none.
    ///
    /// # Errors
    /// [`TopicError::System`]
    pub fn remove(&mut self, name: &str, now_ms: i64) -> Result<bool, TopicError> {
        if self.is_system(name) {
            return Err(TopicError::System);
        }
        let known = self.topics.remove_entry(name);
        if let Some((name, _)) = &known {
            self.change(now_ms);
            self.log_later(name);
        }
        Ok(known.is_some())
    }

    /// From here on changes are kept for [`Topics::take_changes`], with `all` every topic there is.
    pub fn log_changes(&mut self, all: bool) {
        let own = |name: &&TopicName| all && !self.is_system(name.as_str());
        self.unlogged = Some(self.topics.keys().filter(own).cloned().collect());
    }

    /// From here on they are not.
    pub fn stop_logging(&mut self) {
        self.unlogged = None;
    }

    /// The topics that changed since this was last asked, as they are now.
    pub fn take_changes(&mut self) -> Vec<Row> {
        let names = self.unlogged.as_mut().map(std::mem::take).unwrap_or_default();
        let row = |name: TopicName| match self.topics.get(&name) {
            Some(topic) => Row::Topic(name, Arc::clone(&topic.config)),
            None => Row::TopicGone(name),
        };
        names.into_iter().map(row).collect()
    }

    /// What was taken did not get into the log.
    pub fn log_later(&mut self, name: &TopicName) {
        self.unlogged.as_mut().map(|names| names.insert(name.clone()));
    }

    /// What the log of the group says of a topic; `None`: it is deleted.
    pub fn follow(&mut self, name: &TopicName, config: Option<&Arc<TopicConfig>>, now_ms: i64) {
        if self.topics.get(name).map(|topic| &topic.config) == config {
            return;
        }
        self.change(now_ms);
        match config {
            Some(config) => drop(self.insert(name.clone(), TopicConfig::clone(config))),
            None => drop(self.topics.remove(name)),
        }
    }

    /// What the log of the group says of all topics but those of the system.
    pub fn follow_all(&mut self, topics: &BTreeMap<TopicName, Arc<TopicConfig>>, now_ms: i64) {
        let gone = |name: &&TopicName| !topics.contains_key(*name) && !self.is_system(name.as_str());
        let gone: Vec<TopicName> = self.topics.keys().filter(gone).cloned().collect();
        gone.iter().for_each(|name| self.follow(name, None, now_ms));
        topics.iter().for_each(|(name, config)| self.follow(name, Some(config), now_ms));
    }

    /// The number of the newest change.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// The version name servers compare.
    #[must_use]
    pub const fn version(&self) -> DataVersion {
        self.version
    }

    /// What goes to disk and, as a whole, to name servers.
    #[must_use]
    pub fn table(&self) -> TopicTable {
        self.changed_since(None)
    }

    /// The topics changed after `revision`, under the present data version; all of them for
    /// `None`.
    #[must_use]
    pub fn changed_since(&self, revision: Option<Revision>) -> TopicTable {
        let changed = self.topics.values().filter(|topic| revision.is_none_or(|since| topic.changed > since));
        let named = changed.map(|topic| (topic.name.to_string(), TopicConfig::clone(&topic.config)));
        TopicTable {
            data_version: self.version,
            topic_config_table: named.collect(),
            ..TopicTable::default()
        }
    }

    fn store(&mut self, name: TopicName, config: TopicConfig, now_ms: i64) -> Result<Topic, TopicError> {
        match self.topics.get(&name) {
            Some(known) if *known.config == config => return Ok(known.clone()),
            None if self.topics.len() >= self.limits.total => {
                return Err(TopicError::TooMany(self.limits.total));
            }
            None if self.limits.ignoring_case => {
                let is_alike = |known: &&TopicName| known.as_str().eq_ignore_ascii_case(name.as_str());
                if let Some(known) = self.topics.keys().find(is_alike) {
                    return Err(TopicError::OtherCase(known.to_string()));
                }
            }
            _ => {}
        }
        self.change(now_ms);
        self.log_later(&name);
        Ok(self.insert(name, config))
    }

    fn insert(&mut self, name: TopicName, config: TopicConfig) -> Topic {
        let topic = Topic { name: name.clone(), config: Arc::new(config), changed: self.revision };
        self.topics.insert(name, topic.clone());
        topic
    }

    fn change(&mut self, now_ms: i64) {
        self.revision.0 += 1;
        self.version = self.version.next(now_ms);
    }
}

/// True when attributes fit [`ATTRIBUTES_MAX`]: what is written of them must fit a record of the log.
#[must_use]
pub fn are_short(attributes: &BTreeMap<String, String>) -> bool {
    attributes.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= ATTRIBUTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics() -> Topics {
        Topics::new("DefaultCluster", "broker-a", TopicLimits::default(), TopicTable::default(), 1000)
    }

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    #[test]
    fn a_broker_starts_with_its_system_topics() {
        let topics = topics();
        assert_eq!(topics.get("TBW102").unwrap().config.perm, 7);
        assert_eq!(topics.get("SCHEDULE_TOPIC_XXXX").unwrap().queues(), 18);
        assert!(topics.get("DefaultCluster_REPLY_TOPIC").is_some());
        assert!(topics.is_system("broker-a") && topics.is_system("rmq_sys_x") && !topics.is_system("orders"));
        assert!(topics.iter().count() >= 2, "a first registration needs two topics");
    }

    #[test]
    fn every_change_has_a_new_version_and_no_change_has_none() {
        let mut topics = topics();
        let before = topics.version();
        let first = topics.put(TopicConfig::new("orders", 4, 6), 2000).unwrap();
        assert_eq!((first.changed, topics.revision()), (Revision(1), Revision(1)));
        assert_eq!(
            topics.version(),
            DataVersion { counter: before.counter + 1, timestamp: 2000, state_version: 0 }
        );
        assert_eq!(topics.put(TopicConfig::new("orders", 4, 6), 3000).unwrap().changed, Revision(1));
        assert_eq!(topics.revision(), Revision(1));
        topics.put(TopicConfig::new("orders", 8, 6), 3000).unwrap();
        let changed = topics.changed_since(Some(Revision(1)));
        assert_eq!(changed.topic_config_table.keys().collect::<Vec<_>>(), ["orders"]);
        assert_eq!(changed.data_version, topics.version());
    }

    /// proves: B30, B32, B33
    #[test]
    fn senseless_topics_are_refused() {
        let mut topics = topics();
        let mut put = |config: TopicConfig| topics.put(config, 0).unwrap_err();
        assert!(matches!(put(TopicConfig::new("../x", 4, 6)), TopicError::Name(_)));
        assert!(matches!(put(TopicConfig::new("", 4, 6)), TopicError::Name(_)));
        assert_eq!(put(TopicConfig::new("TBW102", 4, 6)), TopicError::System);
        assert_eq!(put(TopicConfig::new("t", -1, 6)), TopicError::Queues(-1));
        assert_eq!(put(TopicConfig::new("t", i32::MAX, 6)), TopicError::Queues(i32::MAX));
        assert_eq!(put(TopicConfig::new("t", 4, 8)), TopicError::Permission(8));
        let long = [("x".to_owned(), "y".repeat(ATTRIBUTES_MAX))].into();
        assert_eq!(
            put(TopicConfig { attributes: long, ..TopicConfig::new("t", 4, 6) }),
            TopicError::Attributes
        );
        assert_eq!(topics.remove("SCHEDULE_TOPIC_XXXX", 0), Err(TopicError::System));
        assert_eq!(topics.remove("unknown", 0), Ok(false));
    }

    #[test]
    fn a_send_creates_its_topic_from_the_template() {
        let mut topics = topics();
        let made = topics.create_from("TBW102", &name("orders"), 4, 0).unwrap();
        assert_eq!((made.config.read_queue_nums, made.config.perm), (4, 6));
        assert_eq!(topics.create_from("TBW102", &name("wide"), 99, 0).unwrap().queues(), 8);
        assert_eq!(topics.create_from("TBW102", &name("none"), -4, 0).unwrap().queues(), 0);
        assert!(matches!(topics.create_from("orders", &name("x"), 4, 0), Err(TopicError::Template(_))));
        assert!(matches!(topics.create_from("nothing", &name("x"), 4, 0), Err(TopicError::Template(_))));
    }

    /// proves: B73
    #[test]
    fn creation_by_sending_is_bounded_and_can_be_turned_off() {
        let limits = TopicLimits { auto_created: 2, ..TopicLimits::default() };
        let mut topics = Topics::new("c", "b", limits, TopicTable::default(), 0);
        topics.create_from("TBW102", &name("t1"), 4, 0).unwrap();
        topics.create_from("TBW102", &name("t2"), 4, 0).unwrap();
        assert_eq!(topics.create_from("TBW102", &name("t3"), 4, 0).unwrap_err(), TopicError::TooMany(2));
        topics.create_from("TBW102", &name("t1"), 4, 0).expect("it exists");

        let off = TopicLimits { auto_created: 0, ..TopicLimits::default() };
        let mut topics = Topics::new("c", "b", off, topics.table(), 0);
        topics.create_from("TBW102", &name("t4"), 4, 0).unwrap_err();
        assert!(topics.get("t1").is_some(), "what was created is kept");
    }

    /// proves: B31
    #[test]
    fn names_that_differ_by_case_are_two_topics_unless_the_disk_disagrees() {
        let mut topics = topics();
        topics.put(TopicConfig::new("orders", 4, 6), 0).unwrap();
        topics.put(TopicConfig::new("Orders", 4, 6), 0).unwrap();
        let limits = TopicLimits { ignoring_case: true, ..TopicLimits::default() };
        let mut topics = Topics::new("c", "b", limits, TopicTable::default(), 0);
        topics.put(TopicConfig::new("orders", 4, 6), 0).unwrap();
        let refused = Err(TopicError::OtherCase("orders".to_owned()));
        assert_eq!(topics.put(TopicConfig::new("Orders", 4, 6), 0).map(drop), refused);
        assert_eq!(topics.create_from("TBW102", &name("ORDERS"), 4, 0).map(drop), refused);
        topics.put(TopicConfig::new("orders", 8, 6), 0).expect("the same one is changed");
    }

    #[test]
    fn what_is_stored_comes_back() {
        let mut before = topics();
        before.put(TopicConfig { order: true, ..TopicConfig::new("orders", 4, 6) }, 5000).unwrap();
        let after = Topics::new("DefaultCluster", "broker-a", TopicLimits::default(), before.table(), 6000);
        assert_eq!(after.get("orders").unwrap().config, before.get("orders").unwrap().config);
        assert_eq!(after.version().counter, before.version().counter + 1, "name servers look again");
    }
}
