//! What a broker does by itself: time limits, expiry, writing its tables to disk.

use std::sync::Arc;
use std::time::Duration;

use super::config_files::{CONSUMER_OFFSETS, ConfigError, DELAY_OFFSETS, GROUPS, TOPICS};
use super::registration::wait;
use super::settling::Need;
use super::shared::{Shared, lock, read};
use super::signal::Setter;
use super::start::StopError;

const TICK: Duration = Duration::from_secs(1);
const OFFSETS_PERIOD: Duration = Duration::from_secs(5);
/// Nothing waits this long without a reason.
const LONG: Duration = Duration::from_secs(3600);
const HOUSEKEEPING: Duration = Duration::from_millis(100);
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
        overdue.iter().for_each(|turn| turn.time_out(shared.too_late(turn.end(), turn.raised())));
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

/// The housekeeping of a store without a thread of its own.
pub async fn keep_house(shared: Arc<Shared>) {
    while !shared.is_stopping() {
        let next = shared.now() + HOUSEKEEPING;
        wait(&shared, next, |shared| shared.is_stopping()).await;
        shared.store.housekeep();
    }
}

/// Writes topics and groups as soon as they change, again after a second when the disk refused,
/// and a last time at the end; `saved` gets the result of that.
pub async fn keep_persisted(shared: Arc<Shared>, saved: Setter<Result<(), StopError>>) {
    loop {
        let is_last = shared.is_stopping();
        let upto = shared.present();
        let written = shared.persist_tables(upto).await;
        match &written {
            Ok(()) => shared.settling.persisted(upto),
            Err(error) => shared.settling.not_persisted(upto, error.to_string()),
        }
        if is_last {
            return saved.set(written.map_err(StopError::Tables));
        }
        let until = shared.now() + if written.is_err() { TICK } else { LONG };
        let is_due = |shared: &Shared| shared.is_stopping() || (written.is_ok() && shared.present() != upto);
        wait(&shared, until, is_due).await;
    }
}

/// Writes consumer and delay offsets every 5 s, when they changed, and a last time at the end;
/// `saved` gets the result of that.
pub async fn keep_offsets(shared: Arc<Shared>, saved: Setter<Result<(), StopError>>) {
    loop {
        let next = shared.now() + OFFSETS_PERIOD;
        wait(&shared, next, |shared| shared.is_stopping()).await;
        let is_last = shared.is_stopping();
        // What could not be written is tried again; until then a crash repeats messages.
        let written = shared.persist_offsets().await;
        if is_last {
            return saved.set(written.map_err(StopError::Tables));
        }
    }
}

impl Shared {
    /// The newest changes of topics and groups.
    pub fn present(&self) -> Need {
        Need { topics: read(&self.topics).revision(), groups: read(&self.groups).revision() }
    }

    /// Writes what is not on disk yet of topics and groups up to a revision or later.
    async fn persist_tables(&self, upto: Need) -> Result<(), ConfigError> {
        let on_disk = self.settling.on_disk();
        let is_first = on_disk == Need::default();
        if is_first || on_disk.topics < upto.topics {
            let table = read(&self.topics).table();
            self.files.write(TOPICS, &table).await?;
        }
        if is_first || on_disk.groups < upto.groups {
            let table = read(&self.groups).table();
            self.files.write(GROUPS, &table).await?;
        }
        Ok(())
    }

    /// Writes consumer and delay offsets when they changed since the last time.
    async fn persist_offsets(&self) -> Result<(), ConfigError> {
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
