//! What a client may rely on when it talks to a broker: requests and answers, on a simulated
//! network and disk, in virtual time.

mod consuming;
mod groups;
mod retrying;
mod safety;
mod sending;
mod tools;
mod world;
