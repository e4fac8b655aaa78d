//! The state of a network and its clockwork.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake};

use super::EventSource;
use super::executor::{Ready, Task, TaskId, TaskWake};
use super::hosts::HostState;
use super::links::Links;
use super::log::{Entry, Event};
use super::pipe::Circuits;
use super::random::Random;
use super::timers::{Due, Timers};
use super::trace::Trace;
use crate::driver::Workspaces;
use crate::end::{End, Watch};
use crate::limits::Limits;
use crate::{BoxFuture, CloseReason, Command, Monotonic};

/// Task steps without time going on that can only be tasks waking each other for ever.
const STEPS_AT_ONCE: u64 = 20_000_000;

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) limits: Arc<Limits>,
    pub(super) spaces: Arc<Workspaces>,
    ready: Arc<Ready>,
    sources: Mutex<Vec<Arc<dyn EventSource>>>,
    state: Mutex<State>,
}

/// Everything that changes. No task, waker of a stranger or service runs under its lock.
pub(super) struct State {
    pub(super) now: Monotonic,
    pub(super) timers: Timers,
    pub(super) hosts: BTreeMap<IpAddr, HostState>,
    pub(super) names: BTreeMap<String, Vec<IpAddr>>,
    pub(super) links: Links,
    pub(super) circuits: Circuits,
    /// Draws of delays, losses and cuts between segments.
    pub(super) weather: Random,
    pub(super) trace: Trace,
    pub(super) log: Vec<Entry>,
    pub(super) keep_log: bool,
    pub(super) tolerate_panics: bool,
    pub(super) steps: u64,
    pub(super) strays: u64,
    tasks: BTreeMap<TaskId, Task>,
    next_task: TaskId,
    /// Draws the next task to run.
    order: Random,
    steps_now: u64,
    panic: Option<Box<dyn Any + Send>>,
}

impl World {
    pub(super) fn new(seed: u64, limits: Limits) -> Arc<Self> {
        let state = State {
            now: Monotonic::default(),
            names: BTreeMap::new(),
            timers: Timers::default(),
            hosts: BTreeMap::new(),
            links: Links::new(),
            circuits: Circuits::default(),
            weather: Random::named(seed, "weather"),
            trace: Trace::default(),
            log: Vec::new(),
            keep_log: true,
            tolerate_panics: false,
            steps: 0,
            strays: 0,
            tasks: BTreeMap::new(),
            next_task: 0,
            order: Random::named(seed, "order"),
            steps_now: 0,
            panic: None,
        };
        Arc::new(Self {
            seed,
            limits: Arc::new(limits),
            spaces: Arc::default(),
            ready: Arc::default(),
            sources: Mutex::default(),
            state: Mutex::new(state),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Monotonic {
        self.lock().now
    }

    pub(super) fn add_source(&self, source: Arc<dyn EventSource>) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    fn sources_due(&self, now: Monotonic) -> Vec<Arc<dyn EventSource>> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().filter(|source| source.next_due().is_some_and(|at| at <= now)).cloned().collect()
    }

    /// When something will happen if nothing is ready now.
    pub(super) fn next_due(&self) -> Option<Monotonic> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let source = sources.iter().filter_map(|source| source.next_due()).min();
        drop(sources);
        [self.lock().timers.first(), source].into_iter().flatten().min()
    }

    pub(super) fn advance(&self, to: Monotonic) {
        let mut state = self.lock();
        if to > state.now {
            state.now = to;
            state.steps_now = 0;
        }
    }

    /// Runs one ready task, or lets time jump to the next event; false if there is none until
    /// `end`.
    pub(super) fn step(&self, end: Monotonic) -> bool {
        if let Some((id, future, wake)) = self.draw() {
            self.run(id, future, &wake);
            return true;
        }
        let Some(due) = self.next_due().filter(|due| *due <= end) else { return false };
        self.advance(due);
        for source in self.sources_due(due) {
            source.run_due(due);
        }
        self.fire(due);
        true
    }

    fn fire(&self, due: Monotonic) {
        loop {
            let mut state = self.lock();
            let Some(event) = state.timers.pop_due(due) else { return };
            state.count_step(self.seed);
            let woken = match event {
                Due::Wake(waker) => vec![waker],
                Due::Deliver(way) => state.deliver(way),
                Due::Reset(way) => state.reset(way),
            };
            drop(state);
            woken.into_iter().for_each(std::task::Waker::wake);
        }
    }

    /// Takes a ready task of a host that is not paused.
    fn draw(&self) -> Option<(TaskId, BoxFuture<'static, ()>, Arc<TaskWake>)> {
        let mut state = self.lock();
        loop {
            let id = {
                let mut ready = self.ready.lock();
                let at = match ready.len() {
                    0 => return None,
                    1 => 0,
                    len => state.order.below(len as u64) as usize,
                };
                ready.swap_remove(at)
            };
            let state = &mut *state;
            let Some(task) = state.tasks.get_mut(&id) else { continue };
            if let Some(host) = state.hosts.get_mut(&task.host)
                && host.paused
            {
                host.parked.push(id);
                continue;
            }
            let Some(future) = task.future.take() else { continue };
            let wake = Arc::clone(&task.wake);
            state.trace.fold(id);
            state.count_step(self.seed);
            return Some((id, future, wake));
        }
    }

    fn run(&self, id: TaskId, mut future: BoxFuture<'static, ()>, wake: &Arc<TaskWake>) {
        let waker = wake.starts();
        let polled =
            catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut Context::from_waker(&waker))));
        let mut state = self.lock();
        let panic = state.panic.take().or(polled.as_ref().is_err().then(|| Box::new(()) as _));
        if let Some(payload) = panic {
            eprintln!("panic in the simulation of seed {} at {:?}", self.seed, state.now.since_start());
            state.tasks.remove(&id);
            drop(state);
            resume_unwind(polled.err().unwrap_or(payload));
        }
        // Dropped below, without the lock: done, or of a host that went down while it ran.
        let mut dropped = None;
        match state.tasks.get_mut(&id) {
            Some(task) if polled.is_ok_and(|poll| poll.is_pending()) => task.future = Some(future),
            _ => {
                state.tasks.remove(&id);
                dropped = Some(future);
            }
        }
        drop(state);
        drop(dropped);
    }

    /// Starts a task of a host, unless that host is gone.
    pub(super) fn spawn(&self, host: IpAddr, incarnation: u64, future: BoxFuture<'static, ()>) {
        let mut state = self.lock();
        if !state.runs(host, incarnation) {
            drop(state);
            drop(future);
            return;
        }
        let id = state.next_task;
        state.next_task += 1;
        let wake = TaskWake::new(id, &self.ready);
        state.tasks.insert(id, Task { host, incarnation, future: Some(future), wake: Arc::clone(&wake) });
        drop(state);
        wake.wake();
    }

    /// Takes all tasks of a host out, so that the caller can drop them without the lock.
    pub(super) fn take_tasks(&self, host: IpAddr, incarnation: u64) -> Vec<Task> {
        let mut state = self.lock();
        let gone = state.tasks.extract_if(.., |_, task| task.host == host && task.incarnation == incarnation);
        gone.map(|(_, task)| task).collect()
    }

    /// Lets tasks that waited for their host run.
    pub(super) fn ready(&self, tasks: Vec<TaskId>) {
        self.ready.lock().extend(tasks);
    }

    pub(super) fn cut(&self, from: IpAddr, to: IpAddr) {
        self.lock().links.cut(from, to);
    }

    pub(super) fn join(&self, from: IpAddr, to: IpAddr) {
        self.lock().links.join(from, to);
    }

    pub(super) fn heal(&self) {
        self.lock().links.heal();
    }

    /// Drops everything that owns a handle to this world.
    pub(super) fn end(&self) {
        loop {
            let mut state = self.lock();
            let tasks = std::mem::take(&mut state.tasks);
            let timers = state.timers.clear();
            let hosts = std::mem::take(&mut state.hosts);
            drop(state);
            let sources = std::mem::take(&mut *self.sources.lock().unwrap_or_else(PoisonError::into_inner));
            if tasks.is_empty() && timers.is_empty() && hosts.is_empty() && sources.is_empty() {
                return;
            }
        }
    }
}

impl State {
    fn count_step(&mut self, seed: u64) {
        self.steps += 1;
        self.steps_now += 1;
        assert!(
            self.steps_now < STEPS_AT_ONCE,
            "seed {seed}: {STEPS_AT_ONCE} steps and still {:?}: tasks wake each other for ever",
            self.now.since_start()
        );
    }

    /// True for the incarnation of a host that is running.
    pub(super) fn runs(&self, host: IpAddr, incarnation: u64) -> bool {
        self.hosts.get(&host).is_some_and(|host| host.up && host.incarnation == incarnation)
    }

    pub(super) fn record(&mut self, connection: u64, host: SocketAddr, peer: SocketAddr, event: Event) {
        self.trace.fold(connection ^ u64::from(host.port()) << 32);
        self.trace.fold(event.digest());
        let since = u64::try_from(self.now.since_start().as_nanos()).unwrap_or(u64::MAX);
        self.trace.fold(since);
        if self.keep_log {
            self.log.push(Entry { at: self.now, connection, host, peer, event });
        }
    }
}

/// The number that both ends of a connection have in the log.
const fn number(end: &End) -> u64 {
    end.id.0 / 2
}

impl Watch for World {
    fn sent(&self, end: &End, command: &Command) {
        self.lock().record(number(end), end.local, end.peer, Event::sent(command));
    }

    fn arrived(&self, end: &End, command: &Command) {
        self.lock().record(number(end), end.local, end.peer, Event::arrived(command));
    }

    fn stray(&self, count: u64) {
        self.lock().strays += count;
    }

    fn closed(&self, end: &End, reason: &CloseReason) {
        self.lock().record(number(end), end.local, end.peer, Event::Closed(reason.clone()));
    }

    fn panicked(&self, payload: Box<dyn Any + Send>) {
        let mut state = self.lock();
        if !state.tolerate_panics {
            state.panic.get_or_insert(payload);
        }
    }
}
