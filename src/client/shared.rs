//! What producers and consumers of one process share: connections, routes, timers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use staticfire_transport::tcp::Tcp;
use staticfire_transport::{
    CloseReason, Command, Connection, Endpoint, Monotonic, Runtime, Service, Transport,
};

use super::peers::{Greeting, Limits, Peers};
use super::wait::{First, Signal, all_of, first_of, lock};
use super::{ClientError, route};
use crate::protocol::body::{ConsumerData, HeartbeatData, ProducerData, ResetOffsetBody, TopicRouteData};
use crate::protocol::codes::{request, response};
use crate::protocol::header::{self, Header};
use crate::protocol::headers::{
    ConsumerGroupRequest, ResetOffsetRequest, RouteRequest, UnregisterClientRequest,
};
use crate::protocol::json;
use crate::protocol::names::AUTO_CREATE_TOPIC;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The name servers, all equal. One is used at a time, another when it fails. A host is looked up when
    /// there is no connection to it.
    pub name_servers: Vec<Endpoint>,
    /// Names the client within its groups. Default: unique.
    pub id: Option<String>,
    /// How often routes are asked for. Default: 30 s.
    pub route_interval: Duration,
    /// How often brokers are told of our groups. Default: 30 s.
    pub heartbeat_interval: Duration,
    /// The longest wait for one answer. Default: 3 s.
    pub call_limit: Duration,
}

impl ClientOptions {
    /// The defaults with these name servers. [`Endpoint::list`] reads a list as RocketMQ's users write it, also in
    /// the environment, which a library leaves to the program:
    ///
    /// ```
    /// use staticfire::client::ClientOptions;
    /// use staticfire::transport::Endpoint;
    ///
    /// let list = std::env::var("NAMESRV_ADDR").unwrap_or_else(|_| "127.0.0.1:9876;127.0.0.1:9877".to_owned());
    /// let options = ClientOptions::new(Endpoint::list(&list)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn new(name_servers: impl IntoIterator<Item = impl Into<Endpoint>>) -> Self {
        Self {
            name_servers: name_servers.into_iter().map(Into::into).collect(),
            id: None,
            route_interval: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(30),
            call_limit: Duration::from_secs(3),
        }
    }
}

/// A client. Cloning shares it. Timers and connections end with [`Client::close`], or when the last
/// clone, producer and consumer is dropped.
#[derive(Clone)]
pub struct Client(pub(super) Arc<Shared>);

/// See [`Client`].
pub(super) struct Shared {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) options: ClientOptions,
    pub(super) id: String,
    peers: Arc<Peers>,
    service: Arc<dyn Service>,
    name_server: AtomicUsize,
    topics: Mutex<BTreeMap<String, Option<Arc<TopicRouteData>>>>,
    groups: Mutex<Groups>,
    doubts: Mutex<BTreeMap<String, Doubt>>,
}

/// A topic's route that led to nobody.
#[derive(Default)]
struct Doubt {
    is_open: bool,
    /// When the route was last asked for because of it.
    followed: Option<Monotonic>,
}

#[derive(Default)]
struct Groups {
    producers: BTreeSet<String>,
    consumers: BTreeMap<String, Member>,
}

/// A consumer of this client, as its brokers and connections see it.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) data: ConsumerData,
    /// Raised when the group's members changed.
    pub(super) changed: Arc<Signal>,
    /// Where new offsets ordered by a broker go.
    pub(super) reset: Option<Weak<dyn OffsetReset>>,
}

/// Takes new offsets that an operator ordered.
pub(super) trait OffsetReset: Send + Sync {
    fn reset(&self, topic: &str, offsets: ResetOffsetBody);
}

impl Client {
    /// Makes a client on a transport and its runtime. Nothing is sent before there is a need.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>, runtime: Arc<dyn Runtime>, options: ClientOptions) -> Self {
        let id = options.id.clone().unwrap_or_else(|| format!("127.0.0.1@{:016X}", runtime.random()));
        let start = usize::try_from(runtime.random() >> 32).unwrap_or_default();
        let shared = Arc::new_cyclic(|weak: &Weak<Shared>| Shared {
            peers: Arc::new(Peers::new(transport, Arc::clone(&runtime))),
            service: Arc::new(Incoming(weak.clone())),
            name_server: AtomicUsize::new(start),
            topics: Mutex::default(),
            groups: Mutex::default(),
            doubts: Mutex::default(),
            runtime: Arc::clone(&runtime),
            id,
            options,
        });
        every(&shared, shared.options.route_interval, |shared| async move { shared.refresh_routes().await });
        every(&shared, shared.options.heartbeat_interval, |shared| async move { shared.heartbeat().await });
        Self(shared)
    }

    /// Makes a client on sockets, [`Client::new`] for short.
    #[must_use]
    pub fn over_tcp(tcp: &Tcp, options: ClientOptions) -> Self {
        Self::new(Arc::new(tcp.clone()), Arc::new(tcp.clone()), options)
    }

    /// The client's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Where a topic lives, from the cache or, the first time, from a name server.
    ///
    /// # Errors
    /// [`ClientError::NoRoute`] when it lives nowhere, and whatever keeps us from asking.
    pub async fn route(&self, topic: &str) -> Result<Arc<TopicRouteData>, ClientError> {
        self.0.route(topic).await
    }

    /// Closes all connections; producers and consumers on this client fail from now on. Close them
    /// first: they then say goodbye.
    pub fn close(&self) {
        self.0.peers.close();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("id", &self.0.id).finish_non_exhaustive()
    }
}

/// Runs `work` every `interval` until the client is gone. A run that takes longer than the interval
/// delays the next.
fn every<F>(shared: &Arc<Shared>, interval: Duration, work: impl Fn(Arc<Shared>) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (weak, runtime) = (Arc::downgrade(shared), Arc::clone(&shared.runtime));
    let mut next = runtime.now() + interval;
    shared.runtime.spawn(Box::pin(async move {
        loop {
            runtime.sleep_until(next).await;
            let Some(shared) = weak.upgrade() else { return };
            work(shared).await;
            next = (next + interval).max(runtime.now());
        }
    }));
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.peers.close();
    }
}

impl Shared {
    /// The open connection to a broker, without dialling.
    pub(super) fn open_connection(&self, broker: SocketAddr) -> Option<Connection> {
        self.peers.open(broker)
    }

    /// A connection to a broker. It hears of our groups before anything else.
    pub(super) async fn connection(self: &Arc<Self>, broker: SocketAddr) -> Result<Connection, ClientError> {
        self.peers.connection(broker, &self.service, Some(self.greeting())).await
    }

    fn greeting(self: &Arc<Self>) -> Arc<dyn Greeting> {
        Arc::new(Hello(Arc::downgrade(self)))
    }

    /// Calls a broker.
    pub(super) async fn call(
        self: &Arc<Self>,
        broker: SocketAddr,
        request: Command,
        limits: Limits,
    ) -> Result<Command, ClientError> {
        self.peers.call(broker, &self.service, Some(self.greeting()), request, limits).await
    }

    /// The usual limits of a call.
    pub(super) fn limits(&self) -> Limits {
        Limits::both(self.options.call_limit)
    }

    /// Calls a broker and refuses any answer but success.
    pub(super) async fn ask(
        self: &Arc<Self>,
        broker: SocketAddr,
        request: Command,
    ) -> Result<Command, ClientError> {
        let answer = self.call(broker, request, self.limits()).await?;
        if answer.code == response::SUCCESS { Ok(answer) } else { Err(refused(broker, answer)) }
    }

    /// Calls the name server in use; when it does not answer, the others in turn. Each gets its share
    /// of the usual time, so that a caller with that much patience hears of the last one too.
    async fn ask_name_server(
        self: &Arc<Self>,
        request: &Command,
    ) -> Result<(SocketAddr, Command), ClientError> {
        let servers = &self.options.name_servers;
        let mut failure = ClientError::NameServers;
        for _ in 0..servers.len() {
            let mut turn = NameServerTurn::begin(&self.name_server);
            let server = &servers[turn.number % servers.len()];
            let share = self.options.call_limit / u32::try_from(servers.len()).unwrap_or(u32::MAX);
            let addresses = self.peers.find(server, share).await.unwrap_or_else(|error| {
                failure = error;
                Vec::new()
            });
            let share = share / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
            let limits = Limits::both(share.max(NAME_SERVER_LIMIT_MIN));
            for address in addresses {
                match self.peers.call(address, &self.service, None, request.clone(), limits).await {
                    Ok(answer) => {
                        turn.answered = true;
                        return Ok((address, answer));
                    }
                    Err(ClientError::Closed) => return Err(ClientError::Closed),
                    Err(error) => failure = error,
                }
            }
        }
        Err(failure)
    }

    /// The route of a topic, cached or fresh. From now on it is asked for on the timer.
    pub(super) async fn route(self: &Arc<Self>, topic: &str) -> Result<Arc<TopicRouteData>, ClientError> {
        if let Some(known) = self.cached_route(topic) {
            if self.take_doubt(topic)
                && let Ok(Some(fresh)) = self.refresh_route(topic).await
            {
                return Ok(fresh);
            }
            return Ok(known);
        }
        lock(&self.topics).entry(topic.to_owned()).or_insert(None);
        self.refresh_route(topic).await?.ok_or_else(|| ClientError::NoRoute { topic: topic.to_owned() })
    }

    /// As [`Shared::route`]; a topic that does not exist gets the route of the template, so that
    /// the first send creates it.
    pub(super) async fn route_to_send(
        self: &Arc<Self>,
        topic: &str,
    ) -> Result<Arc<TopicRouteData>, ClientError> {
        match self.route(topic).await {
            Err(ClientError::NoRoute { .. }) => {}
            other => return other,
        }
        let template = self.fetch_route(AUTO_CREATE_TOPIC).await?;
        let template = template.ok_or_else(|| ClientError::NoRoute { topic: topic.to_owned() })?;
        let route = Arc::new(route::from_template(template));
        Ok(lock(&self.topics).entry(topic.to_owned()).or_default().get_or_insert(route).clone())
    }

    pub(super) fn cached_route(&self, topic: &str) -> Option<Arc<TopicRouteData>> {
        lock(&self.topics).get(topic).cloned().flatten()
    }

    /// Asks for a topic's route. A route that was known stays when there is none now or nobody
    /// answers: brokers may come back, and old knowledge is better than none.
    pub(super) async fn refresh_route(
        self: &Arc<Self>,
        topic: &str,
    ) -> Result<Option<Arc<TopicRouteData>>, ClientError> {
        let fresh = self.fetch_route(topic).await?;
        let mut topics = lock(&self.topics);
        let known = topics.entry(topic.to_owned()).or_default();
        if let Some(fresh) = fresh {
            *known = Some(Arc::new(fresh));
        }
        Ok(known.clone())
    }

    /// What the route of a topic led to failed in this way. If that may be because another broker leads
    /// the group by now, whoever needs the route next asks for it again.
    pub(super) fn doubt(&self, topic: &str, failure: &ClientError) {
        let moved = match failure {
            ClientError::Refused { code, .. } => *code == response::SERVICE_NOT_AVAILABLE,
            ClientError::Unreachable { .. }
            | ClientError::NoAnswer { .. }
            | ClientError::NoRoute { .. }
            | ClientError::NoQueue { .. }
            | ClientError::TimedOut => true,
            _ => false,
        };
        if moved {
            lock(&self.doubts).entry(topic.to_owned()).or_default().is_open = true;
        }
    }

    /// Takes the doubt about a route, unless one was followed just now.
    fn take_doubt(&self, topic: &str) -> bool {
        let mut doubts = lock(&self.doubts);
        let Some(doubt) = doubts.get_mut(topic).filter(|doubt| doubt.is_open) else { return false };
        let now = self.now();
        let due = doubt.followed.is_none_or(|last| now.since(last) >= DOUBT_INTERVAL);
        if due {
            *doubt = Doubt { is_open: false, followed: Some(now) };
        }
        due
    }

    async fn fetch_route(self: &Arc<Self>, topic: &str) -> Result<Option<TopicRouteData>, ClientError> {
        let asked = RouteRequest { topic: topic.to_owned(), standard_json: true };
        let request = asked.on(Command::request(request::GET_ROUTEINFO_BY_TOPIC));
        let (server, answer) = self.ask_name_server(&request).await?;
        match answer.code {
            response::SUCCESS => {
                let route = json::from_slice_tolerant(&answer.body.to_bytes());
                let mut route: TopicRouteData = route.map_err(|error| not_understood(server, error))?;
                self.find_brokers(&mut route).await;
                Ok(Some(route))
            }
            response::TOPIC_NOT_EXIST => Ok(None),
            _ => Err(refused(server, answer)),
        }
    }

    /// Puts addresses in the place of host names. A host that is not found keeps its name, and whoever
    /// needs it is told.
    async fn find_brokers(&self, route: &mut TopicRouteData) {
        for address in route.broker_datas.iter_mut().flat_map(|broker| broker.broker_addrs.values_mut()) {
            if let Ok(host @ Endpoint::Host { .. }) = address.parse()
                && let Ok(found) = self.peers.find(&host, self.options.call_limit).await
            {
                *address = found[0].to_string();
            }
        }
    }

    /// Asks for the routes of all known topics.
    async fn refresh_routes(self: Arc<Self>) {
        let topics: Vec<String> = lock(&self.topics).keys().cloned().collect();
        for topic in topics {
            // Failures keep what is known; the next round asks again.
            let _ = self.refresh_route(&topic).await;
        }
    }

    /// Tells all known brokers of our groups; producers alone speak to masters only.
    pub(super) async fn heartbeat(self: Arc<Self>) {
        let masters_only = {
            let groups = lock(&self.groups);
            if groups.producers.is_empty() && groups.consumers.is_empty() {
                return;
            }
            groups.consumers.is_empty()
        };
        let brokers: BTreeSet<SocketAddr> = {
            let topics = lock(&self.topics);
            let routes = topics.values().flatten();
            routes.flat_map(|known| route::addresses(known, masters_only)).collect()
        };
        let calls = brokers.into_iter().map(|broker| {
            let shared = Arc::clone(&self);
            async move {
                // A broker that does not hear us now hears us next time, or when we connect again.
                let _ = shared.call(broker, shared.heartbeat_request(), shared.limits()).await;
            }
        });
        all_of(calls).await;
    }

    fn heartbeat_request(&self) -> Command {
        let groups = lock(&self.groups);
        let data = HeartbeatData {
            client_id: self.id.clone(),
            consumers: groups.consumers.values().map(|member| member.data.clone()).collect(),
            fingerprint: 0,
            producers: groups
                .producers
                .iter()
                .map(|name| ProducerData { group_name: name.clone() })
                .collect(),
            without_subscriptions: false,
        };
        Command::request(request::HEART_BEAT).with_body(json::to_bytes(&data))
    }

    pub(super) fn add_producer(&self, group: &str) {
        lock(&self.groups).producers.insert(group.to_owned());
    }

    pub(super) fn put_consumer(&self, group: &str, member: Member) {
        lock(&self.groups).consumers.insert(group.to_owned(), member);
    }

    /// Leaves a group and says so to all known brokers that are connected.
    pub(super) async fn leave(self: &Arc<Self>, producer: Option<&str>, consumer: Option<&str>) {
        {
            let mut groups = lock(&self.groups);
            producer.map(|group| groups.producers.remove(group));
            consumer.map(|group| groups.consumers.remove(group));
        }
        let goodbye = UnregisterClientRequest {
            client_id: self.id.clone(),
            producer_group: producer.map(str::to_owned),
            consumer_group: consumer.map(str::to_owned),
        };
        let brokers: BTreeSet<SocketAddr> =
            lock(&self.topics).values().flatten().flat_map(|known| route::addresses(known, false)).collect();
        let connected = brokers.into_iter().filter_map(|broker| self.peers.open(broker));
        let calls = connected.map(|connection| {
            connection.call(goodbye.on(Command::request(request::UNREGISTER_CLIENT)), self.options.call_limit)
        });
        all_of(calls).await;
    }

    /// Sleeps, or less when the signal is raised after `seen`. True when it was.
    pub(super) async fn sleep_or(&self, time: Duration, signal: &Signal, seen: u64) -> bool {
        matches!(first_of(signal.after(seen), self.runtime.sleep(time)).await, First::Left(()))
    }

    pub(super) fn now(&self) -> Monotonic {
        self.runtime.now()
    }
}

/// Time between two questions for a route that led to nobody.
const DOUBT_INTERVAL: Duration = Duration::from_millis(25);

/// A name server has at least this long to answer.
const NAME_SERVER_LIMIT_MIN: Duration = Duration::from_millis(500);

/// One question to a name server. Unless it was answered, the next question goes to another one: also
/// when whoever asked did not wait for the end.
struct NameServerTurn<'a> {
    current: &'a AtomicUsize,
    number: usize,
    answered: bool,
}

impl<'a> NameServerTurn<'a> {
    fn begin(current: &'a AtomicUsize) -> Self {
        Self { current, number: current.load(Ordering::Relaxed), answered: false }
    }
}

impl Drop for NameServerTurn<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let next = self.number.wrapping_add(1);
            // Somebody else may have moved on already.
            let _ = self.current.compare_exchange(self.number, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// An answer with an error code.
pub(super) fn refused(peer: SocketAddr, answer: Command) -> ClientError {
    ClientError::Refused { peer, code: answer.code, remark: answer.remark.unwrap_or_default() }
}

/// An answer whose header or body makes no sense.
pub(super) fn not_understood(peer: SocketAddr, error: impl fmt::Display) -> ClientError {
    ClientError::Answer { peer, message: error.to_string() }
}

/// Tells a broker of our groups, first thing on a new connection.
struct Hello(Weak<Shared>);

impl Greeting for Hello {
    fn greet(&self, connection: &Connection) {
        let Some(shared) = self.0.upgrade() else { return };
        let silent = {
            let groups = lock(&shared.groups);
            groups.producers.is_empty() && groups.consumers.is_empty()
        };
        if !silent {
            let call = connection.call(shared.heartbeat_request(), shared.options.call_limit);
            // Whatever the answer: requests behind it do not depend on it.
            shared.runtime.spawn(Box::pin(async move { drop(call.await) }));
        }
    }
}

/// What brokers ask of us. Holds the client weakly: an open connection keeps no client alive.
struct Incoming(Weak<Shared>);

impl Service for Incoming {
    fn turn(&self, connection: &Connection, requests: &mut Vec<Command>) {
        for request in requests.drain(..) {
            let known = self.0.upgrade().is_some_and(|shared| shared.incoming(&request));
            if !known && !request.is_one_way() && !request.is_response() {
                let remark = format!(" request type {} not supported", request.code);
                let answer = request.answer(response::REQUEST_CODE_NOT_SUPPORTED).with_remark(remark);
                // A connection that is gone has nobody to tell.
                let _ = connection.send(answer);
            }
        }
    }

    fn closed(&self, connection: &Connection, _reason: &CloseReason) {
        if let Some(shared) = self.0.upgrade() {
            shared.peers.gone(connection.peer(), connection.id());
        }
    }
}

impl Shared {
    /// Handles a one-way request of a broker; false when it is none that we know.
    fn incoming(&self, request: &Command) -> bool {
        if !request.is_one_way() {
            return false;
        }
        match request.code {
            request::NOTIFY_CONSUMER_IDS_CHANGED => {
                let named = header::read::<ConsumerGroupRequest>(request).ok();
                let member = named.and_then(|named| self.consumer(&named.consumer_group));
                member.inspect(|member| member.changed.raise());
            }
            request::RESET_CONSUMER_CLIENT_OFFSET => {
                let Ok(asked) = header::read::<ResetOffsetRequest>(request) else { return true };
                let Ok(offsets) = json::from_slice_tolerant(&request.body.to_bytes()) else { return true };
                let reset = self.consumer(&asked.group).and_then(|member| member.reset?.upgrade());
                reset.inspect(|reset| reset.reset(&asked.topic, offsets));
            }
            _ => return false,
        }
        true
    }

    fn consumer(&self, group: &str) -> Option<Member> {
        lock(&self.groups).consumers.get(group).cloned()
    }
}
