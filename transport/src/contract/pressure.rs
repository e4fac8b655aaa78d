//! Peers that do not keep up, and frames that are large.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{LONG, Mailbox, Observed, Raw, Served, World, frame};
use crate::frame::FRAME_BYTES_MAX;
use crate::limits::Limits;
use crate::{CallError, CloseReason, Command, SendError};

/// More than two systems buffer for a socket on loopback.
const FLOOD: usize = 64 << 20;

/// Proof that a limit on one side holds: the system's buffers and the limit, with room.
const BOUND: usize = 32 << 20;

/// Sending to a peer that never reads ends in `Backlog` with bounded memory.
pub fn a_peer_that_never_reads_is_closed_by_what_it_is_sent<W: World>() {
    let limits = Limits { unsent_bytes: 1 << 20, ..Limits::default() };
    let served = Served::<W>::new(limits, Observed::echo());
    let _raw = served.raw();
    let accepted = served.world.block_on(served.server.opened.take());
    let mut taken = 0;
    let body = vec![0; 64 << 10];
    let refused = loop {
        match accepted.send(Command::one_way(40).with_body(body.clone())) {
            Ok(()) => taken += body.len(),
            Err(error) => break error,
        }
        assert!(taken < FLOOD, "no limit holds");
    };
    assert_eq!(refused, SendError::Backlog);
    assert!(taken >= 1 << 20, "less than the limit was taken");
    assert_eq!(accepted.send(Command::one_way(40)), Err(SendError::Closed));
    assert_eq!(served.world.block_on(served.server.closed.take()), CloseReason::Backlog);
}

/// proves: B10
///
/// A peer that asks and never reads is not read either; it holds a bounded number of answers, and
/// is closed when that lasts.
pub fn a_peer_that_never_reads_its_answers_is_read_no_more<W: World>() {
    let limits = Limits {
        idle: Duration::from_millis(200),
        unsent_bytes: 4 << 20,
        unsent_answer_bytes: 1 << 20,
        ..Limits::default()
    };
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    let server = Observed::new(move |connection, requests| {
        for request in requests.drain(..) {
            count.fetch_add(64 << 10, Ordering::Relaxed);
            let _ = connection.send(request.answer(0).with_body(vec![0; 64 << 10]));
        }
    });
    let served = Served::<W>::new(limits, server);
    let mut raw = served.raw();
    let request = frame(&Command::request(11).with_body(vec![0; 8 << 10]));
    // A few requests a write, so that one turn cannot pass the limit on unsent bytes.
    raw.write(&request.repeat(FLOOD / (64 << 10)));
    assert_eq!(served.world.block_on(served.server.closed.take()), CloseReason::Backlog);
    let answered = answered.load(Ordering::Relaxed);
    assert!((1 << 20..BOUND).contains(&answered), "{answered} bytes of answers");
}

/// Beyond the limit of unanswered requests nothing is read; answers let the reading go on.
pub fn unanswered_requests_stop_the_reading_until_they_are_answered<W: World>() {
    let inbox = Arc::new(Mailbox::default());
    let arrived = Arc::new(AtomicUsize::new(0));
    let (put, count) = (Arc::clone(&inbox), Arc::clone(&arrived));
    let server = Observed::new(move |_, requests| {
        count.fetch_add(requests.len(), Ordering::Relaxed);
        requests.drain(..).for_each(|request| put.put(request));
    });
    let limits = Limits { unanswered_requests: 10, ..Limits::default() };
    let served = Served::<W>::new(limits, server);
    let connection = served.dial(&Observed::echo());
    let accepted = served.world.block_on(served.server.opened.take());
    // One read may deliver 64 KiB, so each request is larger than that.
    let request = Command::request(1).with_body(vec![0; 100 << 10]);
    let calls: Vec<_> = (0..100).map(|_| connection.call(request.clone(), LONG)).collect();
    let mut requests = Vec::new();
    for _ in 0..10 {
        requests.push(served.world.block_on(inbox.take()));
    }
    let late = connection.call(Command::request(2), Duration::from_millis(50));
    assert_eq!(served.world.block_on(late), Err(CallError::TimedOut));
    let read = arrived.load(Ordering::Relaxed);
    assert!((10..=12).contains(&read), "{read} requests read, one turn more than 10 at most");
    served.world.block_on(async {
        for at in 0..100 {
            if at >= requests.len() {
                requests.push(inbox.take().await);
            }
            accepted.send(requests[at].answer(0)).expect("it is open");
        }
        for call in calls {
            call.await.expect("an answer");
        }
    });
}

/// A frame that no peer would take is refused here; the connection is as before.
pub fn a_frame_above_the_limit_is_refused_and_harms_nothing<W: World>() {
    let served = Served::<W>::new(Limits::default(), Observed::echo());
    let connection = served.dial(&Observed::echo());
    let huge = Command::request(1).with_body(vec![0; FRAME_BYTES_MAX]);
    assert_eq!(connection.send(huge.clone()), Err(SendError::TooLarge));
    let call = connection.call(huge, LONG);
    assert_eq!(served.world.block_on(call), Err(CallError::Send(SendError::TooLarge)));
    served.works(&connection);
}

/// Bodies of any size up to the limit arrive as they were sent, in slices or in one piece.
pub fn large_bodies_arrive_whole<W: World>() {
    let served = Served::<W>::new(Limits::default(), Observed::echo());
    let connection = served.dial(&Observed::echo());
    for size in [1, 511, 512, 65_000, 70_000, 5 << 20, FRAME_BYTES_MAX - 200] {
        let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let slices: Vec<bytes::Bytes> = bytes.chunks(100_000).map(bytes::Bytes::copy_from_slice).collect();
        let answer = served.call(&connection, Command::request(1).with_body(slices));
        assert!(answer.body.to_bytes() == bytes, "{size} bytes changed");
    }
}
