//! What must come true once nothing is wrong any more: the second half of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use staticfire_storage::{PhysicalOffset, Store};

use super::{Node, Running, Violation, queues, reached};
use crate::broker::Broker;
use crate::protocol::json;

/// Ten election time-outs, and the longest that a stalled connection waits before it tries again.
const ELECTED: Duration = Duration::from_secs(6 + 6);
/// How long a member may need to copy what it lacks.
const COPIED: Duration = Duration::from_secs(10);
/// Tables are exported every five seconds, after three of calm, and syncs that began on a slow disk
/// take their time after it is fast again.
const EXPORTED: Duration = Duration::from_secs(120);
/// Brokers register again every thirty seconds.
const REGISTERED: Duration = Duration::from_secs(35);
/// The files in which a broker of a group shows what it knows besides messages.
const TABLES: [&str; 3] =
    ["config/topics.json", "config/subscriptionGroup.json", "config/consumerOffset.json"];

impl Running {
    /// Waits until the cluster is at rest, which takes it a bounded time once nothing is wrong and
    /// nobody sends any more: each group has a leader, the logs of its members are equal byte for
    /// byte, and so is what they know besides messages; all queues are what the logs say; and every
    /// name server knows every broker, and who leads.
    ///
    /// proves: I13, I22, I30, I34, I42, I49, I54, I58, I60
    ///
    /// # Errors
    /// What did not come true in its time.
    pub fn settle(&mut self) -> Result<(), Violation> {
        self.within(ELECTED, "I49", |running| match running.leaderless() {
            None => Ok(()),
            Some(group) => Err(format!("nobody leads group {group}")),
        })?;
        self.within(COPIED, "I34", Self::logs_agree)?;
        self.within(EXPORTED, "I42", Self::tables_agree)?;
        self.within(REGISTERED, "I54", Self::name_servers_agree)?;
        self.attend();
        self.violation()?;
        for node in self.cluster.nodes() {
            if let Some(store) = self.store(node) {
                queues::check(store).map_err(|found| found.on(node).within(self.context()))?;
            }
        }
        Ok(())
    }

    fn within(
        &mut self,
        limit: Duration,
        invariant: &'static str,
        check: impl Fn(&Self) -> Result<(), String>,
    ) -> Result<(), Violation> {
        let begun = self.now();
        self.run_until(limit, |running| check(running).is_ok());
        let took = self.now().since(begun).as_millis();
        let took = if took < 3_000 { "in three seconds" } else { "later" };
        reached::note(invariant, took);
        check(self).map_err(|what| {
            Violation::new(invariant, format!("{limit:?} after all faults: {what}")).within(self.context())
        })
    }

    /// The members of a group that copy from each other; nobody for brokers that do not.
    fn members(&self, group: u8) -> Vec<(Node, &Broker)> {
        let members = (0..self.cluster.members).map(|id| Node::Broker { group, id });
        let copies = |node| self.broker(node).filter(|broker| broker.role().is_some()).map(|it| (node, it));
        members.filter_map(copies).collect()
    }

    fn groups(&self) -> impl Iterator<Item = (u8, Vec<(Node, &Broker)>)> {
        (0..self.cluster.groups).map(|group| (group, self.members(group))).filter(|(_, it)| it.len() > 1)
    }

    fn leaderless(&self) -> Option<u8> {
        let leads = |(_, broker): &(Node, &Broker)| broker.role().is_some_and(|role| role.serves());
        self.groups().find(|(_, members)| !members.iter().any(leads)).map(|(group, _)| group)
    }

    fn logs_agree(&self) -> Result<(), String> {
        for (_, members) in self.groups() {
            let (first, store) = (members[0].0, members[0].1.store());
            for (node, broker) in &members[1..] {
                let differ = |what| Err(format!("the logs of {first} and {node} differ: {what}"));
                let (one, other) = (store.marks(), broker.store().marks());
                if (one.appended, one.confirmed) != (other.appended, other.confirmed) {
                    return differ(format!("{one:?} and {other:?}"));
                }
                let from = one.min.max(other.min);
                if bytes(store, from)? != bytes(broker.store(), from)? {
                    return differ("in their bytes".to_owned());
                }
            }
        }
        Ok(())
    }

    fn tables_agree(&self) -> Result<(), String> {
        for (_, members) in self.groups() {
            let (first, known) = (members[0].0, self.tables(members[0].0));
            for (node, _) in &members[1..] {
                let other = self.tables(*node);
                for (name, table) in &known {
                    if other.get(name) != Some(table) {
                        let found = other.get(name);
                        return Err(format!("{name}: {table:?} on {first}, {found:?} on {node}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// What a broker exported, without the versions, which are its own.
    fn tables(&self, node: Node) -> BTreeMap<&'static str, serde_json::Value> {
        let read = |name: &'static str| {
            let bytes = self.disk(node).contents(name).ok()?;
            let mut table: serde_json::Value = json::from_slice_tolerant(&bytes).ok()?;
            table.as_object_mut()?.remove("dataVersion");
            Some((name, table))
        };
        TABLES.into_iter().filter_map(read).collect()
    }

    fn name_servers_agree(&self) -> Result<(), String> {
        for number in 0..self.cluster.name_servers {
            let Some(server) = self.name_server(number) else { continue };
            let known = server.brokers();
            for node in self.cluster.nodes().into_iter().filter(|node| self.broker(*node).is_some()) {
                let (address, broker) = (node.address().to_string(), self.broker(node));
                let id = known.iter().find(|known| known.address == address).map(|known| known.broker_id);
                let leads = broker.and_then(Broker::role).map(|role| role.serves());
                let fits = match (id, leads) {
                    (None, _) => false,
                    (Some(id), Some(leads)) => leads == (id == 0),
                    (Some(_), None) => true,
                };
                if !fits {
                    return Err(format!("name server {number} takes {node} for {id:?}, leads: {leads:?}"));
                }
            }
        }
        Ok(())
    }
}

fn bytes(store: &Store, from: PhysicalOffset) -> Result<Vec<u8>, String> {
    let slices = store.slices(from, store.marks().appended).map_err(|error| error.to_string())?;
    Ok(slices.concat())
}
