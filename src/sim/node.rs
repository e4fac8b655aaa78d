//! Names of the nodes of a cluster.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A host of a simulated cluster, named by what runs on it.
///
/// ```
/// use staticfire::sim::Node;
///
/// let node = Node::Broker { group: 0, id: 1 };
/// assert_eq!(node.to_string(), "b0.1");
/// assert_eq!("b0.1".parse(), Ok(node));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// `n0`, `n1`, …: a name server.
    NameServer(u8),
    /// `b0.0`, `b0.1`, …: a member of a broker group; the one with id 0 is its master.
    Broker {
        /// The group, called `broker-0`, `broker-1`, …
        group: u8,
        /// The number within the group.
        id: u8,
    },
    /// `c1`, `c2`, …: a host of clients.
    Client(u8),
}

impl Node {
    /// The member with id 0 of a group.
    #[must_use]
    pub const fn master(group: u8) -> Self {
        Self::Broker { group, id: 0 }
    }

    /// The address of the host: 10.0.0.x for name servers, 10.1.group.id for brokers, 10.2.0.x for
    /// clients.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        IpAddr::from(match self {
            Self::NameServer(number) => [10, 0, 0, number],
            Self::Broker { group, id } => [10, 1, group, id],
            Self::Client(number) => [10, 2, 0, number],
        })
    }

    /// Whose address this is.
    pub(super) fn at(ip: IpAddr) -> Option<Self> {
        let IpAddr::V4(ip) = ip else { return None };
        match ip.octets() {
            [10, 0, 0, number] => Some(Self::NameServer(number)),
            [10, 1, group, id] => Some(Self::Broker { group, id }),
            [10, 2, 0, number] => Some(Self::Client(number)),
            _ => None,
        }
    }

    /// Where it listens: port 9876 of a name server, 10911 of a broker.
    #[must_use]
    pub fn address(self) -> SocketAddr {
        let port = if matches!(self, Self::NameServer(_)) { 9876 } else { 10911 };
        SocketAddr::new(self.ip(), port)
    }

    /// The group of a broker.
    pub(super) const fn group(self) -> Option<u8> {
        if let Self::Broker { group, .. } = self { Some(group) } else { None }
    }

    /// What is drawn for a node alone depends on this number and the seed.
    pub(super) fn number(self) -> u64 {
        match self {
            Self::NameServer(number) => u64::from(number),
            Self::Broker { group, id } => 0x1_0000 + (u64::from(group) << 8) + u64::from(id),
            Self::Client(number) => 0x2_0000 + u64::from(number),
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameServer(number) => write!(f, "n{number}"),
            Self::Broker { group, id } => write!(f, "b{group}.{id}"),
            Self::Client(number) => write!(f, "c{number}"),
        }
    }
}

impl FromStr for Node {
    type Err = NotANode;

    fn from_str(text: &str) -> Result<Self, NotANode> {
        let wrong = || NotANode(text.to_owned());
        let number = |digits: &str| digits.parse().map_err(|_| wrong());
        match text.split_at_checked(1) {
            Some(("n", digits)) => Ok(Self::NameServer(number(digits)?)),
            Some(("c", digits)) => Ok(Self::Client(number(digits)?)),
            Some(("b", digits)) => {
                let (group, id) = digits.split_once('.').ok_or_else(wrong)?;
                Ok(Self::Broker { group: number(group)?, id: number(id)? })
            }
            _ => Err(wrong()),
        }
    }
}

/// A text that names no node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotANode(String);

impl fmt::Display for NotANode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} names no node; nodes are called n0, b0.0 (group.id) or c1", self.0)
    }
}

impl std::error::Error for NotANode {}
