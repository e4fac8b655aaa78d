//! The broker: takes messages into the store and hands them to consumers.
//!
//! ```text
//!  connection ── turn ──> sends ──> Store::append_each ──> one waiter ──> answers of the turn
//!                   └───> pulls, heartbeats, offsets, tools ──> answers
//!  store ── dispatched ──> held pulls ──> answers
//!  tasks: name servers, delayed messages, time limits, tables to disk
//! ```
//!
//! The decisions are small tables without clock or socket ([`topics`], [`groups`], [`membership`],
//! [`offsets`], [`locks`], [`polls`], [`delay`], [`settling`]); everything around them reads a
//! request, asks a table or the store, and answers. Transactions, SQL filters and POP are not
//! there; whoever asks for them is told so.

mod admin;
mod advice;
mod chores;
mod cold;
pub mod config_files;
mod consumers;
pub mod delay;
mod delivery;
pub mod groups;
mod held;
mod latency;
pub mod locks;
pub mod membership;
mod metrics;
mod node;
pub mod offsets;
mod operator;
mod options;
pub mod polls;
mod progress;
mod pull;
mod raising;
mod refusal;
mod registration;
mod relay;
mod send;
mod send_back;
mod service;
pub mod settling;
mod shared;
mod signal;
mod start;
pub mod state;
pub mod topics;
mod turn;

pub use metrics::prometheus;
pub use node::{GroupOptions, GroupOptionsError, NodeView};
pub use options::BrokerOptions;
pub use start::{Broker, StartError, StopError};
