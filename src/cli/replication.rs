//! Settings of a broker that is one of a group: the table `[replication]`, and options of nearly the same
//! names.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU64;

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use staticfire::broker::GroupOptions;
use staticfire::replication::{self as group, NodeId};

/// Who decides which node leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Failover {
    /// The operator: a master dies, and the group stands still until you promote a slave.
    Manual,
    /// The nodes elect: a majority goes on by itself.
    Raft,
}

/// What a node is when the operator decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It takes messages.
    Master,
    /// It copies, and never becomes anything else by itself.
    Slave,
}

/// The table `[replication]`.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct ReplicationSettings {
    /// This broker's number in its group, from 1 on: it is one of several brokers of its name, which copy.
    #[arg(long, value_name = "NUMBER")]
    pub node: Option<u32>,
    /// Every node of the group, this one too, and where it listens for the others; given once for each
    /// (in a file: peers).
    #[arg(long = "peer", value_name = "NUMBER=IP:PORT", value_delimiter = ',', value_parser = peer)]
    #[serde(deserialize_with = "peers")]
    pub peers: Vec<(u32, SocketAddr)>,
    /// Where it listens for the others, when that is not the address they know (in a file: listen).
    #[arg(id = "replication-listen", long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// Who decides which node leads [default: manual].
    #[arg(long, value_enum)]
    pub failover: Option<Failover>,
    /// With manual failover: what this node is.
    #[arg(long, value_enum)]
    pub role: Option<Role>,
    /// With manual failover, of the master: which promotion this is, 1 to 32767; one more each time.
    #[arg(long, value_name = "NUMBER")]
    pub generation: Option<u16>,
    /// What OK means to a producer: written, flushed, "replicated K" (flushed here and received by K
    /// slaves), "replicated K flushed" (flushed there too), quorum (raft, and the only one there)
    /// [default: flushed, with raft quorum].
    #[arg(long, value_name = "MODE", value_parser = mode)]
    #[serde(deserialize_with = "checked_mode")]
    pub mode: Option<group::Mode>,
    /// Bytes a second that slaves get together which are far behind, so that they leave room for messages;
    /// more than producers send, or they never catch up [default: no limit].
    #[arg(long, value_name = "BYTES")]
    pub catch_up_rate: Option<NonZeroU64>,
}

impl ReplicationSettings {
    /// These settings, and `file` where they say nothing.
    pub fn over(self, file: Self) -> Self {
        Self {
            node: self.node.or(file.node),
            peers: if self.peers.is_empty() { file.peers } else { self.peers },
            listen: self.listen.or(file.listen),
            failover: self.failover.or(file.failover),
            role: self.role.or(file.role),
            generation: self.generation.or(file.generation),
            mode: self.mode.or(file.mode),
            catch_up_rate: self.catch_up_rate.or(file.catch_up_rate),
        }
    }

    /// The broker's part in its group, if it is in one; or what is wrong with the settings.
    pub fn options(&self) -> Result<Option<GroupOptions>, String> {
        let Some(node) = self.node.map(NodeId) else {
            let said = !self.peers.is_empty()
                || self.listen.is_some()
                || self.failover.is_some()
                || self.role.is_some()
                || self.generation.is_some()
                || self.mode.is_some()
                || self.catch_up_rate.is_some();
            return if said {
                Err("say with --node which node of the group this is".to_owned())
            } else {
                Ok(None)
            };
        };
        let peers: BTreeMap<NodeId, SocketAddr> =
            self.peers.iter().map(|(number, address)| (NodeId(*number), *address)).collect();
        if peers.len() < self.peers.len() {
            return Err("a node is named twice among the peers".to_owned());
        }
        if !peers.contains_key(&node) {
            return Err(format!("node {node} is not among the peers; say --peer {node}=IP:PORT"));
        }
        let mut options = GroupOptions::new(node, peers, self.failover()?);
        options.mode = self.mode.unwrap_or(options.mode);
        options.listen = self.listen.unwrap_or(options.listen);
        options.catch_up_rate = self.catch_up_rate;
        options.check().map_err(|error| error.to_string())?;
        Ok(Some(options))
    }

    fn failover(&self) -> Result<group::Failover, String> {
        let failover = self.failover.unwrap_or(Failover::Manual);
        match (failover, self.role, self.generation) {
            (Failover::Raft, None, None) => Ok(group::Failover::Raft),
            (Failover::Raft, ..) => Err("with raft the nodes elect: no role, no generation".to_owned()),
            (Failover::Manual, Some(Role::Slave), None) => Ok(group::Failover::Slave),
            (Failover::Manual, Some(Role::Slave), Some(_)) => Err("a slave has no generation".to_owned()),
            (Failover::Manual, Some(Role::Master), generation) => {
                Ok(group::Failover::Master { generation: generation.unwrap_or(1) })
            }
            (Failover::Manual, None, _) => Err("with manual failover, say --role master or slave".to_owned()),
        }
    }
}

fn peer(text: &str) -> Result<(u32, SocketAddr), String> {
    let parsed = text
        .split_once('=')
        .and_then(|(number, address)| Some((number.trim().parse().ok()?, address.trim().parse().ok()?)));
    parsed.ok_or_else(|| format!("{text:?} is no peer: NUMBER=IP:PORT is"))
}

fn mode(text: &str) -> Result<group::Mode, String> {
    text.parse().map_err(|error: group::ModeError| error.to_string())
}

fn peers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(u32, SocketAddr)>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| peer(text).map_err(D::Error::custom)).collect()
}

fn checked_mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<group::Mode>, D::Error> {
    mode(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Result<Option<GroupOptions>, String> {
        toml::from_str::<ReplicationSettings>(text).map_err(|error| error.to_string())?.options()
    }

    const PEERS: &str =
        "node = 2\npeers = [\"1=10.0.0.1:10912\", \"2=10.0.0.2:10912\", \"3=10.0.0.3:10912\"]\n";

    /// proves: M38
    #[test]
    fn one_word_makes_a_group_elect() {
        let raft = options(&format!("{PEERS}failover = \"raft\"")).unwrap().unwrap();
        assert_eq!((raft.failover, raft.mode), (group::Failover::Raft, group::Mode::Quorum));
        assert_eq!(raft.listen, "10.0.0.2:10912".parse().unwrap());
        let manual =
            options(&format!("{PEERS}failover = \"manual\"\nrole = \"master\"\nmode = \"replicated 2\""));
        let manual = manual.unwrap().unwrap();
        assert_eq!(manual.failover, group::Failover::Master { generation: 1 });
        assert_eq!(manual.mode.to_string(), "replicated 2");
        assert_eq!(manual.catch_up_rate, None);
        let slowed =
            options(&format!("{PEERS}failover = \"raft\"\ncatch-up-rate = 50000000")).unwrap().unwrap();
        assert_eq!(slowed.catch_up_rate, NonZeroU64::new(50_000_000));
        assert!(options("").unwrap().is_none());
    }

    #[test]
    fn what_is_no_group_is_refused_in_words() {
        for (text, words) in [
            ("failover = \"raft\"".to_owned(), "--node"),
            ("node = 4\npeers = [\"1=10.0.0.1:1\"]".to_owned(), "node 4 is not among the peers"),
            ("node = 1\npeers = [\"1=10.0.0.1:1\", \"1=10.0.0.2:1\"]".to_owned(), "twice"),
            ("node = 1\npeers = [\"1:10.0.0.1:1\"]".to_owned(), "NUMBER=IP:PORT"),
            (PEERS.to_owned(), "--role"),
            (format!("{PEERS}role = \"slave\"\ngeneration = 2"), "a slave has no generation"),
            (format!("{PEERS}role = \"master\"\ngeneration = 40000"), "generation 40000"),
            (format!("{PEERS}role = \"master\"\nmode = \"replicated 3\""), "2 slaves"),
            (format!("{PEERS}role = \"master\"\nmode = \"quorum\""), "needs raft"),
            (format!("{PEERS}failover = \"raft\"\nmode = \"flushed\""), "quorum"),
            (format!("{PEERS}mode = \"fast\""), "no mode"),
        ] {
            let refused = options(&text).unwrap_err();
            assert!(refused.contains(words), "{text}: {refused}");
        }
    }
}
