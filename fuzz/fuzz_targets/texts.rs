//! Any text is a name, a filter, an address, a mode, a message id, a plan of faults, or an error; and what
//! was read is written so that it reads back as the same.

#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use staticfire::protocol::filter::TagFilter;
use staticfire::protocol::names::{GroupName, group_of_retry_topic};
use staticfire::replication::Mode;
use staticfire::sim::{Node, Plan};
use staticfire::storage::{MessageId, TopicName, tag};
use staticfire::transport::Endpoint;

fuzz_target!(|text: &str| {
    if let Ok(filter) = TagFilter::parse(text) {
        let _ = (filter.matches_tag(Some(text)), filter.matches_code(tag::code_of(text)));
    }
    let _ = group_of_retry_topic(text);
    if let Ok(group) = GroupName::new(text) {
        assert_eq!(group_of_retry_topic(group.retry_topic().as_str()), Some(text));
        assert!(TopicName::new(group.dead_letter_topic().as_str()).is_ok());
    }
    // A name becomes a folder.
    if let Ok(topic) = TopicName::new(text) {
        assert!(!topic.as_str().contains(['/', '\\', '\0']) && ![".", ".."].contains(&topic.as_str()));
    }
    if let Ok(id) = text.parse::<MessageId>() {
        assert!(id.to_string().eq_ignore_ascii_case(text));
    }
    again::<MessageId>(text);
    again::<Endpoint>(text);
    again::<Mode>(text);
    again::<Node>(text);
    again::<Plan>(text);
});

fn again<T: FromStr<Err: Debug + PartialEq> + Display + PartialEq + Debug>(text: &str) {
    let Ok(value) = text.parse::<T>() else { return };
    assert_eq!(value.to_string().parse::<T>(), Ok(value));
}
