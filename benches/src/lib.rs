//! Shared parts of the benchmarks.
//!
//! Every number is a ratio of two things measured in turns in one run on one machine, and is printed
//! with its mode and its goal; a number alone says more about the machine than about the code. Sizes
//! come from the environment, see [`measure::setting`]. What is measured against:
//!
//! | ours | floor |
//! |---|---|
//! | `Store::append`, `Store::append_each` | `pwrite` of the same bytes |
//! | `Receipt::wait(Flushed)` by many threads | [`group_log`]: one mutex, one flush for all who wait |
//! | `Queue::read` | walking the mapped log and checking every record's CRC |
//! | `Store::append` and the like | other people's logs, in the package `benches/peers` |
//! | a broker over TCP | [`floor`]: one thread that knows one request |
//! | a group of brokers | one broker, beside as many plain logs on the same device ([`beside`]) |

pub mod beside;
pub mod floor;
pub mod frames;
pub mod group_log;
pub mod load;
pub mod measure;
pub mod placement;
pub mod pull;
#[path = "../../tests/processes/relay.rs"]
pub mod relay;
pub mod server;
