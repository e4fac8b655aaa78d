//! SIGINT and SIGTERM ask for a clean end.

use std::io;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Waits for a request to end. Made before anything else, so that none is missed; further ones change
/// nothing: a clean end takes seconds at most, and a killed process loses nothing that was acknowledged.
pub struct EndRequests(Signals);

impl EndRequests {
    pub fn listen() -> io::Result<Self> {
        Ok(Self(Signals::new([SIGINT, SIGTERM])?))
    }

    /// Blocks until the end is asked for.
    pub fn wait(mut self) {
        self.0.forever().next();
    }
}
