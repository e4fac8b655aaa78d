//! What a broker does by itself: time limits, expiry, writing its tables to disk.

use std::sync::Arc;
use std::time::Duration;

use super::config_files::{CONSUMER_OFFSETS, ConfigError, DELAY_OFFSETS, GROUPS, TOPICS};
use super::registration::wait;
use super::settling::Need;
use super::shared::{Shared, lock, read};
use super::signal::until;

const TICK: Duration = Duration::from_secs(1);
/// In ticks: held pulls look at queues that moved on without a match, and offsets are written.
const EVERY_5_S: u64 = 5;
/// In ticks: silent members are struck off.
const EVERY_10_S: u64 = 10;

/// Time limits and expiry, once a second.
pub async fn watch_time(shared: Arc<Shared>) {
    let mut ticks = 0;
    while !shared.is_stopping() {
        let next = shared.now() + TICK;
        wait(&shared, next, |shared| shared.is_stopping()).await;
        ticks += 1;
        shared.expire_polls();
        let overdue = lock(&shared.held).overdue(shared.now());
        overdue.iter().for_each(|turn| turn.time_out());
        if ticks % EVERY_5_S == 0 {
            shared.sweep_polls();
        }
        if ticks % EVERY_10_S == 0 {
            let changed = lock(&shared.members).expire(shared.now());
            changed.iter().for_each(|group| shared.tell_members(group));
            lock(&shared.locks).forget_expired(shared.now());
        }
    }
}

/// Writes topics and groups as soon as they change.
pub async fn keep_persisted(shared: Arc<Shared>) {
    loop {
        let have = shared.persist_tables().await;
        if shared.is_stopping() {
            return;
        }
        let is_new = |shared: &Shared| shared.is_stopping() || shared.present() != have;
        let far = shared.now() + Duration::from_secs(3600);
        wait(&shared, far, is_new).await;
        if shared.settling.has_failed() {
            // The disk refused; not in a loop.
            until(&*shared.runtime, shared.now() + TICK, |_| std::task::Poll::<()>::Pending).await;
        }
    }
}

/// Writes consumer and delay offsets every 5 s, when they changed. The last time is left to
/// [`Broker::stop`](super::Broker::stop), which waits for the end of this task: two writers of one
/// file would trip over each other.
pub async fn keep_offsets(shared: Arc<Shared>) {
    loop {
        let next = shared.now() + TICK * 5;
        if wait(&shared, next, |shared| shared.is_stopping()).await {
            return shared.offsets_left.raise();
        }
        // What could not be written is tried again in 5 s; until then a crash repeats messages.
        let _ = shared.persist_offsets().await;
    }
}

impl Shared {
    fn present(&self) -> Need {
        Need { topics: read(&self.topics).revision(), groups: read(&self.groups).revision() }
    }

    /// Writes what changed of topics and groups. What is on disk then, or was tried.
    async fn persist_tables(&self) -> Need {
        let (topics, need_topics) = {
            let topics = read(&self.topics);
            (topics.table(), topics.revision())
        };
        let (groups, need_groups) = {
            let groups = read(&self.groups);
            (groups.table(), groups.revision())
        };
        let upto = Need { topics: need_topics, groups: need_groups };
        let on_disk = self.settling.on_disk();
        let written = async {
            if on_disk.topics < upto.topics || on_disk == Need::default() {
                self.files.write(TOPICS, &topics).await?;
            }
            if on_disk.groups < upto.groups || on_disk == Need::default() {
                self.files.write(GROUPS, &groups).await?;
            }
            Ok::<(), ConfigError>(())
        };
        match written.await {
            Ok(()) => self.settling.persisted(upto),
            Err(error) => self.settling.not_persisted(upto, error.to_string()),
        }
        upto
    }

    /// Writes consumer and delay offsets when they changed since the last time.
    pub async fn persist_offsets(&self) -> Result<(), ConfigError> {
        let changes = lock(&self.offsets).changes();
        if self.written_offsets.swap(changes, std::sync::atomic::Ordering::AcqRel) != changes {
            let table = self.offset_table();
            if let Err(error) = self.files.write(CONSUMER_OFFSETS, &table).await {
                self.written_offsets.store(u64::MAX, std::sync::atomic::Ordering::Release);
                return Err(error);
            }
        }
        let progress: Vec<_> = lock(&self.delays).progress().collect();
        if *lock(&self.written_delays) != progress {
            self.files.write(DELAY_OFFSETS, &self.delay_table()).await?;
            *lock(&self.written_delays) = progress;
        }
        Ok(())
    }
}
