//! How far changes of topics and groups have got: on disk, and known to the name servers.
//!
//! A topic is acknowledged to whoever created it only when a following question to a name server
//! finds it (nameserver.md §4), and when it survives a restart. Name servers that cannot be
//! reached are not waited for: they get everything when they come back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::signal::Signal;
use super::topics::Revision;

/// Which revisions have to be settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Of the topics: on disk and registered.
    pub topics: Revision,
    /// Of the groups: on disk.
    pub groups: Revision,
}

impl Need {
    /// Both needs.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { topics: self.topics.max(other.topics), groups: self.groups.max(other.groups) }
    }

    fn is_within(self, have: Self) -> bool {
        self.topics <= have.topics && self.groups <= have.groups
    }
}

/// A change could not be written to disk, or into the log of the group. Says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotPersisted(pub String);

/// Progress of persisting and registering.
#[derive(Debug)]
pub struct Settling {
    state: Mutex<State>,
    progress: Signal,
    /// Topics changed up to this revision need not be looked up.
    topics_settled: AtomicU64,
}

#[derive(Debug)]
struct State {
    persisted: Need,
    failed: Option<(Need, String)>,
    servers: Vec<Server>,
}

#[derive(Clone, Copy, Debug)]
struct Server {
    tried: bool,
    reachable: bool,
    registered: Revision,
}

impl Settling {
    /// Nothing is settled; `servers` name servers are not reached yet.
    #[must_use]
    pub fn new(servers: usize) -> Self {
        let server = Server { tried: false, reachable: false, registered: Revision(0) };
        let state = State { persisted: Need::default(), failed: None, servers: vec![server; servers] };
        Self { state: Mutex::new(state), progress: Signal::default(), topics_settled: AtomicU64::new(0) }
    }

    /// Everything up to here is on disk.
    pub fn persisted(&self, upto: Need) {
        let mut state = self.lock();
        state.persisted = state.persisted.and(upto);
        state.failed = None;
        self.advance(state);
    }

    /// Writing everything up to here failed; it will be tried again.
    pub fn not_persisted(&self, upto: Need, why: String) {
        let mut state = self.lock();
        state.failed = Some((upto, why));
        self.advance(state);
    }

    /// Name server number `server` knows everything up to here.
    pub fn registered(&self, server: usize, upto: Revision) {
        let mut state = self.lock();
        state.servers[server] = Server { tried: true, reachable: true, registered: upto };
        self.advance(state);
    }

    /// Name server number `server` cannot be reached.
    pub fn unreachable(&self, server: usize) {
        let mut state = self.lock();
        let known = &mut state.servers[server];
        (known.tried, known.reachable) = (true, false);
        self.advance(state);
    }

    /// True when every name server was tried at least once.
    #[must_use]
    pub fn all_tried(&self) -> bool {
        self.lock().servers.iter().all(|server| server.tried)
    }

    /// Ready when no name server has a connection of ours.
    pub fn poll_all_unreachable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_until(cx, |state| {
            if state.servers.iter().any(|s| s.reachable) { Poll::Pending } else { Poll::Ready(()) }
        })
    }

    /// What is on disk.
    #[must_use]
    pub fn on_disk(&self) -> Need {
        self.lock().persisted
    }

    /// True when nothing of `need` is outstanding. Takes no lock for what was settled before.
    #[must_use]
    pub fn is_settled(&self, need: Need) -> bool {
        let known =
            need.groups == Revision(0) && need.topics.0 <= self.topics_settled.load(Ordering::Acquire);
        known || matches!(self.lock().look(need), Poll::Ready(Ok(())))
    }

    /// True when `need` survives a restart, whatever the name servers know.
    #[must_use]
    pub fn is_on_disk(&self, need: Need) -> bool {
        !self.lock().is_missing(need)
    }

    /// Ready when `need` is settled, or when writing it to disk failed.
    pub fn poll(&self, need: Need, cx: &mut Context<'_>) -> Poll<Result<(), NotPersisted>> {
        self.poll_until(cx, |state| state.look(need))
    }

    fn poll_until<T>(&self, cx: &mut Context<'_>, look: impl Fn(&State) -> Poll<T>) -> Poll<T> {
        loop {
            let seen = self.progress.count();
            if let ready @ Poll::Ready(_) = look(&self.lock()) {
                return ready;
            }
            if self.progress.poll_after(seen, cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn advance(&self, state: MutexGuard<'_, State>) {
        let known = state.servers.iter().filter(|server| server.reachable).map(|server| server.registered);
        let settled = known.chain([state.persisted.topics]).min().unwrap_or_default();
        self.topics_settled.fetch_max(settled.0, Ordering::Release);
        drop(state);
        self.progress.raise();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_missing(&self, need: Need) -> bool {
        !need.is_within(self.persisted)
    }

    fn look(&self, need: Need) -> Poll<Result<(), NotPersisted>> {
        if self.is_missing(need) {
            return match &self.failed {
                Some((upto, why)) if need.is_within(*upto) => Poll::Ready(Err(NotPersisted(why.clone()))),
                _ => Poll::Pending,
            };
        }
        let behind = |server: &Server| server.reachable && server.registered < need.topics;
        if self.servers.iter().any(behind) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(revision: u64) -> Need {
        Need { topics: Revision(revision), groups: Revision(0) }
    }

    #[test]
    fn a_topic_is_settled_when_it_is_on_disk_and_every_reachable_name_server_knows_it() {
        let settling = Settling::new(2);
        assert!(settling.is_settled(topics(0)));
        settling.registered(0, Revision(0));
        settling.persisted(topics(3));
        assert!(!settling.is_settled(topics(3)), "server 0 does not know it");
        settling.registered(0, Revision(3));
        assert!(settling.is_settled(topics(3)), "server 1 cannot be reached");
        settling.registered(1, Revision(3));
        settling.persisted(topics(4));
        settling.registered(0, Revision(4));
        assert!(!settling.is_settled(topics(4)), "server 1 is back and behind");
        assert!(settling.is_settled(topics(3)));
        settling.unreachable(1);
        assert!(settling.is_settled(topics(4)));
        assert!(!settling.is_settled(topics(5)), "not on disk");
    }

    #[test]
    fn a_disk_that_refuses_ends_the_wait_with_its_reason() {
        let settling = Settling::new(0);
        settling.not_persisted(topics(2), "full".to_owned());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(settling.poll(topics(2), &mut cx), Poll::Ready(Err(NotPersisted("full".to_owned()))));
        assert_eq!(settling.poll(topics(3), &mut cx), Poll::Pending, "not tried yet");
        settling.persisted(topics(3));
        assert_eq!(settling.poll(topics(3), &mut cx), Poll::Ready(Ok(())));
    }
}
