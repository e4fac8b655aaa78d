//! Who of a group gets which queues: a pure function that every member computes alike
//! (remoting-protocol §9.5).

use crate::protocol::body::MessageQueue;

/// The queues of member `me` when all of `queues` are divided evenly among `members`, in runs of
/// neighbours: RocketMQ's default strategy. Both lists are sorted first, and a member that stands
/// there twice counts once. Not being a member means no queue.
#[must_use]
pub fn average(queues: &[MessageQueue], members: &[String], me: &str) -> Vec<MessageQueue> {
    let mut members: Vec<&str> = members.iter().map(String::as_str).collect();
    members.sort_unstable();
    members.dedup();
    let mut queues: Vec<&MessageQueue> = queues.iter().collect();
    queues.sort_unstable_by_key(|queue| (&queue.topic, &queue.broker_name, queue.queue_id));
    queues.dedup();
    let Ok(index) = members.binary_search(&me) else { return Vec::new() };
    let (share, rest) = (queues.len() / members.len(), queues.len() % members.len());
    // The first `rest` members get one more.
    let start = index * share + index.min(rest);
    let end = start + share + usize::from(index < rest);
    queues[start..end].iter().map(|queue| (*queue).clone()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queues(count: i32) -> Vec<MessageQueue> {
        (0..count).map(|id| MessageQueue::new("t", "broker-a", id)).collect()
    }

    fn members(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("client-{index:03}")).collect()
    }

    /// The formula of remoting-protocol §9.5, as written there.
    fn by_the_sheet(n: usize, m: usize, i: usize) -> std::ops::Range<usize> {
        let size = if n <= m {
            1
        } else if i < n % m {
            n / m + 1
        } else {
            n / m
        };
        let start = if i < n % m { i * size } else { i * size + n % m };
        let start = start.min(n);
        start..(start + size).min(n)
    }

    proptest! {
        #[test]
        fn every_queue_goes_to_exactly_one_member_as_official_clients_divide_them(n in 0..40_i32, m in 1..20_usize) {
            let (queues, members) = (queues(n), members(m));
            let mut given = Vec::new();
            for (index, member) in members.iter().enumerate() {
                let share = average(&queues, &members, member);
                prop_assert_eq!(&share[..], &queues[by_the_sheet(queues.len(), m, index)]);
                given.extend(share);
            }
            prop_assert_eq!(given, queues);
        }
    }

    #[test]
    fn order_and_repetition_in_the_lists_do_not_matter() {
        let (mut queues, mut members) = (queues(5), members(2));
        let expected = average(&queues, &members, "client-001");
        queues.reverse();
        members.reverse();
        members.push("client-000".into());
        assert_eq!(average(&queues, &members, "client-001"), expected);
        assert!(average(&queues, &members, "stranger").is_empty());
        assert!(average(&queues, &[], "client-000").is_empty());
    }
}
