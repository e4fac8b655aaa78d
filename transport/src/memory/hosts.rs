//! Simulated hosts: a clock, tasks and connections of their own, and ways to lose them.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{pending, poll_fn, ready};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::executor::TaskId;
use super::links::Fate;
use super::log::Event;
use super::pipe::Wire;
use super::random::Random;
use super::timers::Sleep;
use super::world::{State, World};
use crate::driver::{Driver, Stream};
use crate::end::{End, Parts};
use crate::{BoxFuture, Connection, ConnectionId, Listener, Monotonic, Runtime, Service, Transport};

/// Wall clocks start here: 2023-11-14 22:13:20 UTC.
const WALL_START_MS: i64 = 1_700_000_000_000;

/// Where ports that nobody chose begin.
const FIRST_FREE_PORT: u16 = 32_768;

/// A lost attempt to connect is repeated after this.
const DIAL_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct HostState {
    pub(super) incarnation: u64,
    pub(super) up: bool,
    pub(super) paused: bool,
    /// Tasks that are ready but for the pause.
    pub(super) parked: Vec<TaskId>,
    listeners: BTreeMap<u16, Accepting>,
    next_port: u16,
    wall_shift_ms: i64,
    /// How fast the wall clock runs too fast, in millionths, and since when.
    wall_drift: (i64, Monotonic),
    random: Random,
}

#[derive(Clone)]
struct Accepting {
    /// Tells a later listener on the same port from this one.
    number: u64,
    loopback: bool,
    service: Arc<dyn Service>,
}

/// One life of a simulated host, from its start until it goes down: a [`Runtime`] and a
/// [`Transport`]. Cloning shares it. When it is down, everything of it is gone: tasks are dropped,
/// nothing can be spawned, listened to or dialled. [`Network::host`](super::Network::host) starts
/// the next life.
#[derive(Clone)]
pub struct Host {
    world: Arc<World>,
    ip: IpAddr,
    incarnation: u64,
}

impl Host {
    pub(super) fn start(world: &Arc<World>, ip: IpAddr) -> Self {
        let mut state = world.lock();
        let host = state.hosts.entry(ip).or_insert_with(|| HostState {
            incarnation: 0,
            up: false,
            paused: false,
            parked: Vec::new(),
            listeners: BTreeMap::new(),
            next_port: FIRST_FREE_PORT,
            wall_shift_ms: 0,
            wall_drift: (0, Monotonic::default()),
            random: Random::named(world.seed, &format!("host {ip}")),
        });
        if !host.up {
            host.up = true;
            host.incarnation += 1;
        }
        Self { world: Arc::clone(world), ip, incarnation: host.incarnation }
    }

    /// The address.
    #[must_use]
    pub const fn ip(&self) -> IpAddr {
        self.ip
    }

    /// False once this life of the host is over.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.world.lock().runs(self.ip, self.incarnation)
    }

    /// The process dies and its system closes the connections: peers see them end.
    pub fn kill(&self) {
        self.go_down(true);
    }

    /// The host loses power: its peers hear nothing any more, until it has started again and
    /// answers what they send on old connections with a reset.
    pub fn power_off(&self) {
        self.go_down(false);
    }

    fn go_down(&self, ends_connections: bool) {
        let mut state = self.world.lock();
        if !state.runs(self.ip, self.incarnation) {
            return;
        }
        state.trace.fold(u64::from(ends_connections));
        let Some(host) = state.hosts.get_mut(&self.ip) else { return };
        host.up = ends_connections;
        host.paused = false;
        let listeners = std::mem::take(&mut host.listeners);
        host.parked.clear();
        drop(state);
        drop(listeners);
        // Dropping a driver closes its stream, and a stream says so only while its host is up.
        // A task that is dropped may spawn another.
        loop {
            let tasks = self.world.take_tasks(self.ip, self.incarnation);
            if tasks.is_empty() {
                break;
            }
        }
        if let Some(host) = self.world.lock().hosts.get_mut(&self.ip) {
            host.up = false;
        }
    }

    /// Stops everything on the host, as a stopped virtual machine does: time goes on, bytes still
    /// arrive, nothing runs.
    pub fn pause(&self) {
        self.set_paused(true);
    }

    /// Undoes [`Self::pause`].
    pub fn resume(&self) {
        self.set_paused(false);
    }

    fn set_paused(&self, paused: bool) {
        let mut state = self.world.lock();
        if state.runs(self.ip, self.incarnation)
            && let Some(host) = state.hosts.get_mut(&self.ip)
        {
            host.paused = paused;
            let parked = if paused { Vec::new() } else { std::mem::take(&mut host.parked) };
            drop(state);
            self.world.ready(parked);
        }
    }

    /// Lets the wall clock jump by `by_ms` milliseconds. It keeps the shift when the host restarts.
    pub fn shift_wall(&self, by_ms: i64) {
        if let Some(host) = self.world.lock().hosts.get_mut(&self.ip) {
            host.wall_shift_ms = host.wall_shift_ms.saturating_add(by_ms);
        }
    }

    /// Lets the wall clock run `per_million` millionths too fast from now on, or too slow if below 0.
    /// What it gained so far stays, also when the host restarts.
    pub fn drift_wall(&self, per_million: i64) {
        let mut state = self.world.lock();
        let now = state.now;
        if let Some(host) = state.hosts.get_mut(&self.ip) {
            host.wall_shift_ms = host.wall_shift_ms.saturating_add(host.drifted_ms(now));
            host.wall_drift = (per_million, now);
        }
    }

    /// The address as others see it: loopback is the host itself.
    fn resolved(&self, to: SocketAddr) -> SocketAddr {
        if to.ip().is_loopback() || to.ip().is_unspecified() {
            SocketAddr::new(self.ip, to.port())
        } else {
            to
        }
    }

    fn end(&self, id: u64, local: SocketAddr, peer: SocketAddr) -> Arc<End> {
        End::new(Parts {
            id: ConnectionId(id),
            local,
            peer,
            limits: Arc::clone(&self.world.limits),
            runtime: Arc::new(self.clone()),
            watch: Arc::clone(&self.world) as Arc<_>,
        })
    }

    /// Bytes on their way to a connection that does not exist yet: how long, or never.
    fn transit(&self, from: IpAddr, to: IpAddr) -> Option<Duration> {
        let state = &mut *self.world.lock();
        if state.links.is_cut(from, to) {
            return None;
        }
        match state.links.fate(from, to, &mut state.weather) {
            Fate::Arrives(delay) => Some(delay),
            Fate::Resets => None,
        }
    }

    /// Connects without any protocol, to send what no codec would. The stream closes when it is
    /// dropped.
    ///
    /// # Errors
    /// As [`Transport::connect`].
    pub fn stream(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<RawStream>> {
        let host = self.clone();
        Box::pin(async move { host.dial(to).await.map(|dialled| RawStream(dialled.wire)) })
    }

    async fn dial(&self, to: SocketAddr) -> io::Result<Dialled> {
        let peer = self.resolved(to);
        let Some((number, local)) = self.world.lock().begin(self.ip, self.incarnation) else {
            return Err(io::ErrorKind::NetworkDown.into());
        };
        self.world.lock().record(number, local, peer, Event::Dialled);
        let dialled = self.attempts(number, local, peer, &to).await;
        let wire = dialled.inspect_err(|error| {
            self.world.lock().record(number, local, peer, Event::Failed(error.kind()));
        })?;
        Ok(Dialled { number, local, peer, wire })
    }

    async fn connected(self, to: SocketAddr, service: Arc<dyn Service>) -> io::Result<Connection> {
        let Dialled { number, local, peer, wire } = self.dial(to).await?;
        let end = self.end(2 * number, local, peer);
        let connection = Connection::new(Arc::clone(&end) as Arc<_>);
        let driver = Driver::new(end, wire, service, Arc::clone(&self.world.spaces));
        self.world.spawn(self.ip, self.incarnation, Box::pin(driver));
        Ok(connection)
    }

    /// The greeting there and its answer back, each repeated when lost.
    async fn attempts(
        &self,
        number: u64,
        local: SocketAddr,
        peer: SocketAddr,
        asked: &SocketAddr,
    ) -> io::Result<Wire> {
        let end = self.now() + self.world.limits.connect;
        let mut accepted = None;
        loop {
            if let Some(there) = self.transit(self.ip, peer.ip()) {
                self.travel(there, end).await?;
                if accepted.is_none() {
                    accepted = self.knock(number, local, peer, asked.ip().is_loopback());
                }
                if let Some(answer) = &accepted
                    && let Some(back) = self.transit(peer.ip(), self.ip)
                {
                    let refused = answer.is_none();
                    self.travel(back, end).await?;
                    if refused {
                        return Err(io::ErrorKind::ConnectionRefused.into());
                    }
                    if let Some(Some(wire)) = accepted {
                        return Ok(wire);
                    }
                }
            }
            if self.now() + DIAL_AGAIN >= end {
                self.sleep_until(end).await;
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.sleep(DIAL_AGAIN).await;
        }
    }

    async fn travel(&self, time: Duration, end: Monotonic) -> io::Result<()> {
        let arrival = self.now() + time;
        self.sleep_until(arrival.min(end)).await;
        if arrival > end { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }

    /// The greeting arrives: `None` if nobody is there, `Some(None)` if it is refused.
    #[expect(clippy::option_option, reason = "silence and refusal are different answers")]
    fn knock(
        &self,
        number: u64,
        local: SocketAddr,
        peer: SocketAddr,
        loopback: bool,
    ) -> Option<Option<Wire>> {
        let mut state = self.world.lock();
        let host = state.hosts.get(&peer.ip()).filter(|host| host.up)?;
        let incarnation = host.incarnation;
        let listener =
            host.listeners.get(&peer.port()).filter(|at| !at.loopback || loopback || peer.ip() == self.ip);
        let Some(listener) = listener.cloned() else { return Some(None) };
        state.connect(number, [(local, self.incarnation), (peer, incarnation)]);
        state.record(number, peer, local, Event::Accepted);
        drop(state);
        let [mine, theirs] = Wire::pair(&self.world, number);
        let host = Self { world: Arc::clone(&self.world), ip: peer.ip(), incarnation };
        let end = host.end(2 * number + 1, peer, local);
        let driver = Driver::new(end, theirs, listener.service, Arc::clone(&self.world.spaces));
        self.world.spawn(peer.ip(), incarnation, Box::pin(driver));
        Some(Some(mine))
    }
}

/// A stream that was connected and has no driver yet.
struct Dialled {
    number: u64,
    local: SocketAddr,
    peer: SocketAddr,
    wire: Wire,
}

/// Bytes to and from a listener, without codec or deadlines: for hostile peers.
pub struct RawStream(Wire);

impl RawStream {
    /// Sends some of `bytes`, from the front, and returns how many.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| self.0.poll_write(cx, &[IoSlice::new(bytes)])).await
    }

    /// Waits for bytes and appends them to `buffer`, at most its spare capacity. 0: the peer is done.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        poll_fn(|cx| self.0.poll_read(cx, buffer)).await
    }
}

impl fmt::Debug for RawStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawStream")
    }
}

impl State {
    /// Numbers a new connection and gives it a port.
    fn begin(&mut self, ip: IpAddr, incarnation: u64) -> Option<(u64, SocketAddr)> {
        if !self.runs(ip, incarnation) {
            return None;
        }
        let host = self.hosts.get_mut(&ip)?;
        let port = host.free_port();
        Some((self.circuits.number(), SocketAddr::new(ip, port)))
    }
}

impl HostState {
    /// What the wall clock gained since it began to drift.
    fn drifted_ms(&self, now: Monotonic) -> i64 {
        let (per_million, from) = self.wall_drift;
        let since_ms = i64::try_from(now.since(from).as_millis()).unwrap_or(i64::MAX);
        since_ms.saturating_mul(per_million) / 1_000_000
    }

    fn free_port(&mut self) -> u16 {
        loop {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_FREE_PORT);
            if !self.listeners.contains_key(&port) {
                return port;
            }
        }
    }
}

/// Takes the listener out when dropped.
struct Listening {
    host: Host,
    port: u16,
    number: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut state = self.host.world.lock();
        let mut gone = None;
        if let Some(host) = state.hosts.get_mut(&self.host.ip)
            && host.listeners.get(&self.port).is_some_and(|at| at.number == self.number)
        {
            gone = host.listeners.remove(&self.port);
        }
        drop(state);
        drop(gone);
    }
}

impl Transport for Host {
    fn listen(&self, at: SocketAddr, service: Arc<dyn Service>) -> io::Result<Listener> {
        let own = at.ip() == self.ip || at.ip().is_loopback() || at.ip().is_unspecified();
        let mut state = self.world.lock();
        if !own || !state.runs(self.ip, self.incarnation) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let number = state.circuits.number();
        let Some(host) = state.hosts.get_mut(&self.ip) else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let port = if at.port() == 0 { host.free_port() } else { at.port() };
        if host.listeners.contains_key(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let loopback = at.ip().is_loopback() && at.ip() != self.ip;
        host.listeners.insert(port, Accepting { number, loopback, service });
        drop(state);
        Ok(Listener::new(SocketAddr::new(at.ip(), port), Listening { host: self.clone(), port, number }))
    }

    fn connect(
        &self,
        to: SocketAddr,
        service: Arc<dyn Service>,
    ) -> BoxFuture<'static, io::Result<Connection>> {
        Box::pin(self.clone().connected(to, service))
    }

    fn lookup(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let found = self.world.lock().names.get(name).cloned().filter(|found| !found.is_empty());
        Box::pin(ready(found.ok_or_else(|| io::ErrorKind::NotFound.into())))
    }
}

impl Runtime for Host {
    fn now(&self) -> Monotonic {
        self.world.now()
    }

    fn wall_ms(&self) -> i64 {
        let state = self.world.lock();
        let shift =
            state.hosts.get(&self.ip).map_or(0, |host| host.wall_shift_ms + host.drifted_ms(state.now));
        let since = i64::try_from(state.now.since_start().as_millis()).unwrap_or(i64::MAX);
        WALL_START_MS.saturating_add(since).saturating_add(shift)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.world.spawn(self.ip, self.incarnation, task);
    }

    fn sleep_until(&self, at: Monotonic) -> BoxFuture<'static, ()> {
        if !self.is_up() {
            return Box::pin(pending());
        }
        Box::pin(Sleep { world: Arc::clone(&self.world), at, key: None })
    }

    fn random(&self) -> u64 {
        self.world.lock().hosts.get_mut(&self.ip).map_or(0, |host| host.random.next())
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({})", self.ip)
    }
}
