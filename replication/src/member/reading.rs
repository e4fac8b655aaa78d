//! Waiting for a read-index.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::Later;

/// Whether everything acknowledged before can be read here.
pub struct ReadIndex(Later<bool>);

/// The other end.
pub(crate) struct Waiting(Later<bool>);

pub(crate) fn pair() -> (Waiting, ReadIndex) {
    let later = Later::default();
    (Waiting(later.clone()), ReadIndex(later))
}

impl Waiting {
    pub(crate) fn set(self, can: bool) {
        self.0.set(can);
    }
}

impl Drop for Waiting {
    /// Whoever waits learns that nobody will tell.
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Future for ReadIndex {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl std::fmt::Debug for ReadIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReadIndex")
    }
}
