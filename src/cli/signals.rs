//! SIGINT and SIGTERM ask for a clean end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
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

/// Set once the end is asked for; a second request ends the process at once.
pub fn end_flag() -> io::Result<Arc<AtomicBool>> {
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset and sets it.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))?;
        flag::register(signal, Arc::clone(&asked))?;
    }
    Ok(asked)
}
