//! The headers of all requests and responses, by subject.

pub mod group;
pub mod message;
pub mod offset;
pub mod pull;
pub mod registration;
pub mod send;
pub mod settings;
pub mod topic;

pub use group::*;
pub use message::*;
pub use offset::*;
pub use pull::*;
pub use registration::*;
pub use send::*;
pub use settings::*;
pub use topic::*;
