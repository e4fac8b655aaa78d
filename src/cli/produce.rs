//! `staticfire produce`: sends messages, and tells how fast and how well.
//!
//! Without a rate, the answer to one message sends the next, on the thread that heard it. With a rate, each
//! message has its time, and its latency counts from there: a server that stalls cannot hide it by making
//! the sender wait.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use indicatif::ProgressBar;
use serde_json::json;
use staticfire::client::{
    Client, ClientError, ClientOptions, Message, Producer, ProducerOptions, SendResult, SendStatus,
};
use staticfire::protocol::names::GroupName;
use staticfire::storage::TopicName;
use staticfire::transport::tcp::{Tcp, TcpOptions};
use staticfire::transport::{Monotonic, Runtime};

use super::arguments::ProduceArguments;
use super::measure::{Latencies, Throughput, progress};
use super::signals;
use super::{Failure, name_servers};

/// Messages in flight without a rate, unless said otherwise.
const IN_FLIGHT: usize = 64;
/// With a rate: enough not to slow an open loop down, and a bound on memory.
const IN_FLIGHT_PACED: usize = 65_536;
/// How long a signal may wait for attention.
const LOOK_UP: Duration = Duration::from_millis(100);

pub fn produce(arguments: &ProduceArguments) -> Result<(), Failure> {
    let topic = TopicName::new(&arguments.topic).map_err(Failure::not_started)?;
    let group = GroupName::new(&arguments.group).map_err(Failure::not_started)?;
    let stop = signals::end_flag().map_err(Failure::not_started)?;
    let tcp = Tcp::start(TcpOptions::default()).map_err(Failure::not_started)?;
    let options = ClientOptions::new(name_servers::chosen(&arguments.name_server)?);
    let client = Client::new(Arc::new(tcp.clone()), Arc::new(tcp.clone()), options);
    let producer = Producer::new(&client, group, ProducerOptions::default());

    let run = Arc::new(Run::new(tcp.clone(), progress(Some(arguments.count))));
    let started = tcp.now();
    match arguments.rate {
        Some(rate) => {
            for number in 0..arguments.count {
                let due = started + due_after(number, rate);
                if !run.admit(due, arguments.in_flight.unwrap_or(IN_FLIGHT_PACED), &stop) {
                    break;
                }
                send(&producer, message(&topic, arguments, number), due, &run);
            }
        }
        None => {
            let most = usize::try_from(arguments.count).unwrap_or(usize::MAX);
            let lanes = arguments.in_flight.unwrap_or(IN_FLIGHT).max(1).min(most);
            run.lock().in_flight = lanes;
            for _ in 0..lanes {
                let (run, producer, topic) = (Arc::clone(&run), producer.clone(), topic.clone());
                let (arguments, stop) = (arguments.clone(), Arc::clone(&stop));
                tcp.spawn(Box::pin(async move { lane(&run, &producer, &topic, &arguments, &stop).await }));
            }
        }
    }
    run.wait_for_answers();
    let time = tcp.now().since(started);
    tcp.block_on(producer.close());
    run.report(arguments, time)
}

/// When the message with this number is due, after the first one.
#[allow(clippy::cast_precision_loss, reason = "nanoseconds do not matter")]
fn due_after(number: u64, rate: f64) -> Duration {
    Duration::try_from_secs_f64(number as f64 / rate).unwrap_or(Duration::MAX)
}

fn message(topic: &TopicName, arguments: &ProduceArguments, number: u64) -> Message {
    let body = match &arguments.body {
        Some(text) => Bytes::from(text.clone()),
        None => filler(number, arguments.size),
    };
    let message = Message::to(topic.clone(), body).key(&number.to_string());
    match &arguments.tag {
        Some(tag) => message.tag(tag),
        None => message,
    }
}

/// A body of `size` bytes that begins with the message's number.
fn filler(number: u64, size: usize) -> Bytes {
    let mut body = format!("{number} ").into_bytes();
    body.resize(size, b'.');
    body.into()
}

/// Sends one message after the other, until all were sent or a signal came.
async fn lane(
    run: &Run,
    producer: &Producer,
    topic: &TopicName,
    arguments: &ProduceArguments,
    stop: &AtomicBool,
) {
    let _in_flight = InFlight(run);
    while !stop.load(Ordering::Relaxed) {
        let number = run.next.fetch_add(1, Ordering::Relaxed);
        if number >= arguments.count {
            break;
        }
        let counted_from = run.tcp.now();
        let outcome = producer.send(message(topic, arguments, number)).await;
        run.answered(counted_from, outcome.as_ref());
    }
}

/// Leaves when dropped, however its lane ends.
struct InFlight<'a>(&'a Run);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

fn send(producer: &Producer, message: Message, counted_from: Monotonic, run: &Arc<Run>) {
    let (stored, failed) = (Arc::clone(run), Arc::clone(run));
    producer.send_with(
        message,
        move |result| {
            stored.answered(counted_from, Ok(&result));
            stored.leave();
        },
        move |error| {
            failed.answered(counted_from, Err(&error));
            failed.leave();
        },
    );
}

/// What the sender and the answers share.
struct Run {
    tcp: Tcp,
    bar: ProgressBar,
    /// The number of the next message of a lane.
    next: AtomicU64,
    state: Mutex<State>,
    left: Condvar,
}

struct State {
    /// Lanes, or paced messages.
    in_flight: usize,
    acknowledged: u64,
    failed: u64,
    first_failure: Option<String>,
    latencies: Latencies,
}

impl Run {
    fn new(tcp: Tcp, bar: ProgressBar) -> Self {
        let state = State {
            in_flight: 0,
            acknowledged: 0,
            failed: 0,
            first_failure: None,
            latencies: Latencies::new(),
        };
        Self { tcp, bar, next: AtomicU64::new(0), state: Mutex::new(state), left: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a message is due and fewer than `most` are in flight. False when a signal came.
    fn admit(&self, due: Monotonic, most: usize, stop: &AtomicBool) -> bool {
        let mut state = self.lock();
        loop {
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            let early = due.since(self.tcp.now());
            if early.is_zero() && state.in_flight < most.max(1) {
                state.in_flight += 1;
                return true;
            }
            let wait = if early.is_zero() { LOOK_UP } else { early.min(LOOK_UP) };
            (state, _) = self.left.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn answered(&self, counted_from: Monotonic, outcome: Result<&SendResult, &ClientError>) {
        let latency = self.tcp.now().since(counted_from);
        let mut state = self.lock();
        let failure = match outcome {
            Ok(result) if result.status == SendStatus::Ok => None,
            Ok(result) => Some(format!("stored, but: {:?}", result.status)),
            Err(error) => Some(error.to_string()),
        };
        match failure {
            None => {
                state.acknowledged += 1;
                state.latencies.record(latency);
            }
            Some(failure) => {
                state.failed += 1;
                state.first_failure.get_or_insert(failure);
            }
        }
        drop(state);
        self.bar.inc(1);
    }

    /// One less is in flight.
    fn leave(&self) {
        self.lock().in_flight -= 1;
        self.left.notify_all();
    }

    fn wait_for_answers(&self) {
        let mut state = self.lock();
        while state.in_flight > 0 {
            state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn report(&self, arguments: &ProduceArguments, time: Duration) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        let state = self.lock();
        let size = arguments.body.as_ref().map_or(arguments.size, String::len) as u64;
        let acknowledged = state.acknowledged;
        let throughput = Throughput { messages: acknowledged, bytes: acknowledged * size, time };
        let counted_from = if arguments.rate.is_some() { "intended send time" } else { "send" };
        if arguments.json {
            let mut report = throughput.json();
            report["acknowledged"] = acknowledged.into();
            report["failed"] = state.failed.into();
            report["rate"] = json!(arguments.rate);
            report["latency_us"] = state.latencies.json();
            report["latency_counted_from"] = counted_from.into();
            println!("{report}");
        } else {
            println!("{acknowledged} acknowledged, {} failed {}", state.failed, throughput.words());
            if acknowledged > 0 {
                println!("latency from the {counted_from}: {}", state.latencies.words());
            }
        }
        match &state.first_failure {
            Some(failure) => {
                Err(Failure::not_well(format!("{} messages were not acknowledged: {failure}", state.failed)))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_spreads_messages_evenly() {
        assert_eq!(due_after(0, 10.0), Duration::ZERO);
        assert_eq!(due_after(25, 10.0), Duration::from_millis(2500));
        assert_eq!(due_after(1, 1e-300), Duration::MAX);
    }

    #[test]
    fn a_body_has_the_size_asked_for_and_begins_with_its_number() {
        assert_eq!(&filler(17, 8)[..], b"17 .....");
        assert_eq!(&filler(1234, 2)[..], b"12");
    }
}
