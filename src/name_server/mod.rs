//! The name server: which brokers live, and where each topic is (nameserver.md).
//!
//! ```text
//!   brokers ── register, heartbeat, connection closes ──┐
//!                                                       ▼
//!   clients ── where is topic T? ──────────────────> RouteTable      a pure table; time is an argument
//!                                                       ▲
//!   timer ──── every 10 s: who was silent > 120 s? ─────┘
//! ```
//!
//! Name servers are equal peers that never talk to each other and keep nothing on disk: brokers
//! register with all of them, and an empty one is complete after one round of registrations. This
//! also holds for key-value settings (codes 100 to 102): unlike RocketMQ's, they live in memory
//! only, so whoever wrote them writes them again after a restart.
//!
//! Other differences, all on the safe side: JSON keys are always quoted; a broker can be
//! unregistered only over the connection that registered it; the configuration cannot be changed
//! from remote (318 is refused); tables are bounded ([`TableLimits`]).

mod handlers;
mod service;
mod settings;
mod table;
mod views;

pub use service::{NameServer, NameServerOptions};
pub use settings::{Settings, SettingsFull};
pub use table::{Eviction, NotRegistered, RegisterError, Registered, RouteTable, TableLimits};
pub use views::{BrokerEntry, UnitTopics};
