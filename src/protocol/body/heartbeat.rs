//! What clients tell brokers about themselves (remoting-protocol §9.1).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::lenient;
use crate::protocol::filter::{FilterError, TagFilter};

lenient::enumeration! {
    /// Who gets a message of a group.
    pub enum MessageModel {
        /// Every member.
        Broadcasting = "BROADCASTING",
        /// One member.
        #[default]
        Clustering = "CLUSTERING",
    }
}

lenient::enumeration! {
    /// How a group takes its messages.
    pub enum ConsumeType {
        /// The application asks.
        #[default]
        Actively = "CONSUME_ACTIVELY",
        /// The client asks and calls the application.
        Passively = "CONSUME_PASSIVELY",
        /// The broker divides the messages.
        Pop = "CONSUME_POP",
    }
}

lenient::enumeration! {
    /// Where a group starts in a queue in which it has no offset.
    pub enum ConsumeFromWhere {
        /// At the end.
        #[default]
        LastOffset = "CONSUME_FROM_LAST_OFFSET",
        /// Obsolete name of the same.
        LastOffsetAndFromMinWhenBootFirst = "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
        /// Obsolete.
        MinOffset = "CONSUME_FROM_MIN_OFFSET",
        /// Obsolete.
        MaxOffset = "CONSUME_FROM_MAX_OFFSET",
        /// At the beginning.
        FirstOffset = "CONSUME_FROM_FIRST_OFFSET",
        /// At a point in time.
        Timestamp = "CONSUME_FROM_TIMESTAMP",
    }
}

/// The expression type of tag subscriptions.
pub const TAG_EXPRESSION: &str = "TAG";

/// What a group wants of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionData {
    /// Obsolete; false.
    #[serde(deserialize_with = "lenient::boolean")]
    pub class_filter_mode: bool,
    /// Hashes of the tags; the C++ client leaves them out.
    #[serde(deserialize_with = "lenient::or_default")]
    pub code_set: BTreeSet<i32>,
    /// `TAG` or `SQL92`.
    #[serde(deserialize_with = "lenient::or_default")]
    pub expression_type: String,
    /// The expression.
    #[serde(deserialize_with = "lenient::or_default")]
    pub sub_string: String,
    /// When the subscription was made, in milliseconds since the Unix epoch.
    #[serde(deserialize_with = "lenient::number")]
    pub sub_version: i64,
    /// The tags; the C++ client leaves them out.
    #[serde(deserialize_with = "lenient::or_default")]
    pub tags_set: BTreeSet<String>,
    /// The topic.
    pub topic: String,
}

impl Default for SubscriptionData {
    fn default() -> Self {
        Self {
            class_filter_mode: false,
            code_set: BTreeSet::new(),
            expression_type: TAG_EXPRESSION.to_owned(),
            sub_string: "*".to_owned(),
            sub_version: 0,
            tags_set: BTreeSet::new(),
            topic: String::new(),
        }
    }
}

impl SubscriptionData {
    /// A tag subscription made at `version_ms`, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// The expression is refused.
    pub fn tags(topic: impl Into<String>, expression: &str, version_ms: i64) -> Result<Self, FilterError> {
        let mut data = Self {
            sub_string: expression.to_owned(),
            sub_version: version_ms,
            topic: topic.into(),
            ..Self::default()
        };
        if let TagFilter::AnyOf { tags, codes } = TagFilter::parse(expression)? {
            data.tags_set = tags;
            data.code_set = codes.into_iter().filter_map(|code| i32::try_from(code).ok()).collect();
        }
        Ok(data)
    }

    /// Is it a tag expression, as an absent type also says?
    #[must_use]
    pub fn is_tag_expression(&self) -> bool {
        self.expression_type.is_empty() || self.expression_type == TAG_EXPRESSION
    }

    /// The filter, made from the expression alone: the sets are not always there.
    ///
    /// # Errors
    /// The expression is refused.
    pub fn filter(&self) -> Result<TagFilter, FilterError> {
        TagFilter::parse(&self.sub_string)
    }
}

/// One consumer group of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerData {
    /// Where it starts.
    pub consume_from_where: ConsumeFromWhere,
    /// How it takes messages.
    pub consume_type: ConsumeType,
    /// Its name.
    pub group_name: String,
    /// Who gets a message.
    pub message_model: MessageModel,
    /// What it wants.
    #[serde(deserialize_with = "lenient::or_default")]
    pub subscription_data_set: Vec<SubscriptionData>,
    /// Unused.
    #[serde(deserialize_with = "lenient::boolean")]
    pub unit_mode: bool,
}

/// One producer group of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerData {
    /// Its name.
    pub group_name: String,
}

/// A client with all its groups (code 34).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeartbeatData {
    /// The client's id.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// Its consumer groups.
    #[serde(rename = "consumerDataSet", deserialize_with = "lenient::or_default")]
    pub consumers: Vec<ConsumerData>,
    /// 0: the client always sends everything.
    #[serde(rename = "heartbeatFingerprint", deserialize_with = "lenient::number")]
    pub fingerprint: i64,
    /// Its producer groups.
    #[serde(rename = "producerDataSet", deserialize_with = "lenient::or_default")]
    pub producers: Vec<ProducerData>,
    /// Subscriptions are left out because they did not change.
    #[serde(rename = "withoutSub", deserialize_with = "lenient::boolean")]
    pub without_subscriptions: bool,
}
