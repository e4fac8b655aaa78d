//! What a route means to producers and consumers: pure functions.

use std::net::SocketAddr;

use super::ClientError;
use crate::protocol::body::{MASTER_ID, MessageQueue, TopicRouteData, permission};

/// Queues a producer asks for when its topic is created by the first send.
pub(super) const NEW_TOPIC_QUEUES: i32 = 4;
/// More queues of one topic at one broker are not believed.
const QUEUES_MAX: i32 = 65_536;

/// The queues a producer may write: those with write permission whose broker has a master, sorted
/// by broker and number.
pub(super) fn writable_queues(topic: &str, route: &TopicRouteData) -> Vec<MessageQueue> {
    queues(topic, route, |queue, broker| {
        let writable =
            queue.writable() && route.broker(broker).is_some_and(|broker| broker.master().is_some());
        if writable { queue.write_queue_nums } else { 0 }
    })
}

/// The queues a consumer may read, with or without a master, sorted by broker and number.
pub(super) fn readable_queues(topic: &str, route: &TopicRouteData) -> Vec<MessageQueue> {
    queues(topic, route, |queue, _| if queue.readable() { queue.read_queue_nums } else { 0 })
}

fn queues(
    topic: &str,
    route: &TopicRouteData,
    count: impl Fn(&crate::protocol::body::QueueData, &str) -> i32,
) -> Vec<MessageQueue> {
    let mut queues = Vec::new();
    for data in &route.queue_datas {
        let count = count(data, &data.broker_name).min(QUEUES_MAX);
        queues.extend((0..count).map(|id| MessageQueue::new(topic, data.broker_name.as_str(), id)));
    }
    queues.sort_unstable();
    queues.dedup();
    queues
}

/// The route of a topic that does not exist yet, made from its template's: the topic will have at
/// most [`NEW_TOPIC_QUEUES`] queues at each broker.
pub(super) fn from_template(mut template: TopicRouteData) -> TopicRouteData {
    for queue in &mut template.queue_datas {
        let count = queue.read_queue_nums.min(NEW_TOPIC_QUEUES);
        (queue.read_queue_nums, queue.write_queue_nums) = (count, count);
        queue.perm &= !permission::INHERIT;
    }
    template
}

/// The address of a broker group's master.
///
/// # Errors
/// The route names no master, or not an address.
pub(super) fn master(route: &TopicRouteData, broker_name: &str) -> Result<SocketAddr, ClientError> {
    let address = route.broker(broker_name).and_then(|broker| broker.master());
    address.map_or_else(|| Err(ClientError::NoRoute { topic: broker_name.to_owned() }), parse)
}

/// The address of one member of a broker group; of the lowest id there is when that one is not.
/// Also returns the id.
///
/// # Errors
/// The route does not know the group, or names no address.
pub(super) fn member(
    route: &TopicRouteData,
    broker_name: &str,
    wanted: i64,
) -> Result<(i64, SocketAddr), ClientError> {
    let group = route.broker(broker_name);
    let found = group.and_then(|group| {
        group.broker_addrs.get_key_value(&wanted).or_else(|| group.broker_addrs.first_key_value())
    });
    let (id, address) = found.ok_or_else(|| ClientError::NoRoute { topic: broker_name.to_owned() })?;
    Ok((*id, parse(address)?))
}

/// Every address in a route, or only those of masters.
pub(super) fn addresses(route: &TopicRouteData, masters_only: bool) -> impl Iterator<Item = SocketAddr> {
    let members = route.broker_datas.iter().flat_map(|broker| broker.broker_addrs.iter());
    members
        .filter(move |(id, _)| !masters_only || **id == MASTER_ID)
        .filter_map(|(_, address)| address.parse().ok())
}

fn parse(address: &str) -> Result<SocketAddr, ClientError> {
    address.parse().map_err(|_| ClientError::Address { found: address.chars().take(80).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::body::{BrokerData, QueueData};

    fn route() -> TopicRouteData {
        let broker = |name: &str, ids: &[i64]| BrokerData {
            broker_name: name.into(),
            broker_addrs: ids.iter().map(|id| (*id, format!("10.0.0.{id}:10911"))).collect(),
            ..BrokerData::default()
        };
        let queues = |name: &str, perm, read, write| QueueData {
            broker_name: name.into(),
            perm,
            read_queue_nums: read,
            write_queue_nums: write,
            topic_sys_flag: 0,
        };
        TopicRouteData {
            broker_datas: vec![broker("b", &[0, 1]), broker("a", &[0]), broker("c", &[2])],
            queue_datas: vec![queues("b", 6, 3, 2), queues("a", 4, 1, 9), queues("c", 6, 1, 1)],
            ..TopicRouteData::default()
        }
    }

    /// proves: M24
    #[test]
    fn producers_write_where_it_is_permitted_and_a_master_is() {
        let queues = writable_queues("t", &route());
        assert_eq!(queues, [MessageQueue::new("t", "b", 0), MessageQueue::new("t", "b", 1)]);
    }

    /// proves: M25
    #[test]
    fn consumers_read_with_or_without_a_master() {
        let queues = readable_queues("t", &route());
        assert_eq!(queues.len(), 5);
        assert_eq!(queues[0].broker_name, "a");
        assert_eq!(member(&route(), "c", 0), Ok((2, "10.0.0.2:10911".parse().unwrap())));
        assert!(master(&route(), "c").is_err());
        assert_eq!(member(&route(), "b", 1), Ok((1, "10.0.0.1:10911".parse().unwrap())));
    }

    /// nameserver.md §7.2.
    #[test]
    fn a_template_lends_at_most_four_queues() {
        let mut template = route();
        template.queue_datas[0].perm = 7;
        template.queue_datas[0].read_queue_nums = 8;
        let route = from_template(template);
        assert_eq!(route.queue_datas[0].write_queue_nums, 4);
        assert_eq!(route.queue_datas[0].perm, 6);
        assert_eq!(route.queue_datas[1].write_queue_nums, 1);
    }

    #[test]
    fn a_lying_route_makes_no_billions_of_queues() {
        let mut route = route();
        route.queue_datas[0].write_queue_nums = i32::MAX;
        route.queue_datas[0].read_queue_nums = -5;
        assert_eq!(writable_queues("t", &route).len(), 65_536);
        assert_eq!(readable_queues("t", &route).len(), 2);
    }
}
