//! What a client may rely on when it talks to a broker: requests and answers, on a simulated
//! network and disk, in virtual time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod consuming;
mod groups;
mod hostile;
mod racing;
mod registering;
mod retrying;
mod safety;
mod sending;
mod tools;
mod world;
mod zero_copy;
