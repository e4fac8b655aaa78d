//! The broker: accepts messages into the store and hands them to consumers.
//!
//! The decisions are small tables without clock or socket ([`topics`], [`groups`], [`membership`],
//! [`offsets`], [`locks`], [`polls`], [`delay`]).

pub mod config_files;
pub mod delay;
pub mod groups;
pub mod locks;
pub mod membership;
pub mod offsets;
pub mod polls;
pub mod topics;
