//! What requests and answers mean: codes, typed headers, bodies (the thin layer between the frames
//! of [`transport`](crate::transport) and the name server, broker and client).
//!
//! ```text
//!   Command { code, ext, body }
//!      │        │     └── body::HeartbeatData, …      json::from_slice_tolerant / json::to_bytes
//!      │        └──────── headers::PullRequest, …     header::Header::read / write
//!      └───────────────── codes::request, codes::response
//! ```
//!
//! What comes in is read as tolerantly as RocketMQ reads it; what goes out is strict.

pub mod body;
pub mod codes;
pub mod delay;
pub mod filter;
pub mod header;
pub mod headers;
pub mod json;
pub mod names;
