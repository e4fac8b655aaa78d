//! How connections end.

use std::time::Duration;

use super::{LONG, Observed, Place, Raw, Served, World, frame};
use crate::limits::Limits;
use crate::{CallError, CloseReason, Command, Connection, FrameError, SendError};

/// The closing end hears `Local`, the other one `Peer`, both once, and calls in flight fail first.
pub fn closing_fails_the_calls_and_is_told_once_to_each_end<W: World>() {
    let (server, inbox) = Observed::collect();
    let served = Served::<W>::new(Limits::default(), server);
    let client = Observed::echo();
    let connection = served.dial(&client);
    let call = connection.call(Command::request(1), LONG);
    served.world.block_on(inbox.take());
    connection.close();
    assert!(!connection.is_open());
    assert_eq!(connection.send(Command::one_way(1)), Err(SendError::Closed));
    assert_eq!(served.world.block_on(call), Err(CallError::Closed));
    let late = connection.call(Command::request(1), LONG);
    assert_eq!(served.world.block_on(late), Err(CallError::Send(SendError::Closed)));
    assert_eq!(served.world.block_on(client.closed.take()), CloseReason::Local);
    assert_eq!(served.world.block_on(served.server.closed.take()), CloseReason::Peer);
    connection.close();
    rest(&served);
    assert!(client.closed.is_empty() && served.server.closed.is_empty(), "closed is told once");
}

/// Gives everything that could still happen the time to happen.
fn rest<W: World>(served: &Served<W>) {
    let other = served.dial(&Observed::echo());
    let call = other.call(Command::request(1), Duration::from_millis(20));
    // Whether it is answered depends on the service; it takes its time either way.
    let _ = served.world.block_on(call);
}

/// The accepting end closes like the other one.
pub fn the_server_may_close<W: World>() {
    let server = Observed::new(|connection, requests| {
        requests.clear();
        connection.close();
    });
    let served = Served::<W>::new(Limits::default(), server);
    let client = Observed::echo();
    let connection = served.dial(&client);
    let call = connection.call(Command::request(1), LONG);
    assert_eq!(served.world.block_on(call), Err(CallError::Closed));
    assert_eq!(served.world.block_on(client.closed.take()), CloseReason::Peer);
    assert_eq!(served.world.block_on(served.server.closed.take()), CloseReason::Local);
    assert!(!connection.is_open());
}

/// Dropping a listener ends the accepting and nothing else.
pub fn a_dropped_listener_refuses_and_keeps_what_it_accepted<W: World>() {
    let mut served = Served::<W>::new(Limits::default(), Observed::echo());
    let connection = served.dial(&Observed::echo());
    served.works(&connection);
    let address = served.listener.address();
    let transport = served.world.transport(Place::Server);
    let other = transport.listen(served.world.server_address(), Observed::echo()).expect("a free port");
    drop(std::mem::replace(&mut served.listener, other));
    let connect = served.world.transport(Place::Client).connect(address, Observed::echo());
    assert!(served.world.block_on(connect).is_err());
    served.works(&connection);
}

/// A service that panics loses the connection it served.
pub fn a_panic_ends_its_connection_only<W: World>() {
    let server = Observed::new(|connection, requests| {
        assert!(requests.iter().all(|request| request.code != 13), "a planned panic");
        for request in requests.drain(..) {
            let _ = connection.send(super::echo(&request));
        }
    });
    let served = Served::<W>::new(Limits::default(), server);
    let (doomed, other) = (served.dial(&Observed::echo()), served.dial(&Observed::echo()));
    let call = doomed.call(Command::request(13), LONG);
    assert_eq!(served.world.block_on(call), Err(CallError::Closed));
    assert_eq!(served.world.block_on(served.server.closed.take()), CloseReason::Panicked);
    served.works(&other);
}

/// A peer that neither speaks nor goes: calls to it time out, then the connection is idle.
pub fn a_silent_peer_is_closed_when_idle<W: World>() {
    let limits = Limits { idle: Duration::from_millis(400), ..Limits::default() };
    let served = Served::<W>::new(limits, Observed::echo());
    let _silent = served.raw();
    let accepted: Connection = served.world.block_on(served.server.opened.take());
    let call = accepted.call(Command::request(1), Duration::from_millis(20));
    assert_eq!(served.world.block_on(call), Err(CallError::TimedOut));
    assert!(accepted.is_open());
    assert_eq!(served.world.block_on(served.server.closed.take()), CloseReason::Idle);
    assert!(!accepted.is_open());
}

/// proves: B3, B7
///
/// A frame that was begun must end in time, however its bytes trickle.
pub fn a_frame_that_never_ends_is_closed<W: World>() {
    let limits = Limits { frame: Duration::from_millis(100), ..Limits::default() };
    let whole = frame(&Command::request(1).with_body(vec![1; 100]));
    // In the length, in the header, in the body; and one that declares all there can be.
    let huge = [16_777_212u32.to_be_bytes(), 50u32.to_be_bytes()].concat();
    for part in [&whole[..2], &whole[..30], &whole[..whole.len() - 1], &huge] {
        let served = Served::<W>::new(limits.clone(), Observed::echo());
        let mut raw = served.raw();
        raw.write(part);
        assert_eq!(served.world.block_on(served.server.closed.take()), CloseReason::Idle);
        assert!(raw.read(1).is_empty());
    }
}

/// proves: B7
///
/// Each byte of a trickle is a sign of life, and none of them gives the frame more time.
pub fn a_frame_that_trickles_is_closed_in_time<W: World>() {
    let limits = Limits { frame: Duration::from_millis(300), ..Limits::default() };
    let whole = frame(&Command::request(1).with_body(vec![1; 100_000]));
    let header = whole.len() - 100_000;
    // From the length on, from the header on, in the body.
    for start in [0, 8, header + 9] {
        let served = Served::<W>::new(limits.clone(), Observed::echo());
        let runtime = served.world.runtime(Place::Client);
        let (mut raw, began) = (served.raw(), runtime.now());
        raw.write(&whole[..start]);
        let mut trickle = whole[start..].chunks(1);
        while served.server.closed.is_empty() {
            assert!(runtime.now().since(began) < Duration::from_secs(5), "a trickle is read for ever");
            raw.write(trickle.next().expect("a byte every 10 ms is too slow for all of them"));
            served.world.block_on(runtime.sleep(Duration::from_millis(10)));
        }
        assert_eq!(served.world.block_on(served.server.closed.take()), CloseReason::Idle);
        served.works(&served.dial(&Observed::echo()));
    }
}

/// proves: B9
///
/// Who goes on sending after the end learns nothing, and nobody listens.
pub fn what_comes_after_the_end_is_not_read<W: World>() {
    let (server, inbox) = Observed::collect();
    let served = Served::<W>::new(Limits::default(), server);
    let mut raw = served.raw();
    raw.write(&frame(&Command::one_way(1)));
    raw.write(b"noise that ends the connection");
    let reason = served.world.block_on(served.server.closed.take());
    assert!(matches!(reason, CloseReason::Protocol(_)), "{reason:?}");
    for _ in 0..100 {
        raw.write(&frame(&Command::one_way(2).with_body(vec![0; 10_000])));
    }
    served.dial(&Observed::echo()).send(Command::one_way(3)).expect("it is open");
    let read = [served.world.block_on(inbox.take()).code, served.world.block_on(inbox.take()).code];
    assert_eq!(read, [1, 3], "nothing between the end and what somebody else says");
    assert!(served.server.closed.is_empty(), "closed is told once");
}

/// proves: B12, B74
///
/// Frames before the noise are served, then the connection closes.
pub fn what_is_no_frame_closes_after_the_frames_before_it<W: World>() {
    for noise in
        [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01", &[0; 16], &[0xff; 64]]
    {
        let served = Served::<W>::new(Limits::default(), Observed::echo());
        let mut raw = served.raw();
        let request = Command::request(1).with_body("served");
        raw.write(&[frame(&request), noise.to_vec()].concat());
        let answer = raw.read(frame(&super::echo(&request)).len() + 1);
        assert_eq!(answer, frame(&super::echo(&request)), "one answer, then the end");
        let reason = served.world.block_on(served.server.closed.take());
        assert!(matches!(reason, CloseReason::Protocol(FrameError::Length { .. })), "{reason:?}");
    }
}

/// proves: B2
///
/// Nothing waits for, or makes room for, more than a frame may have.
pub fn a_huge_length_closes_at_once<W: World>() {
    for declared in [16_777_213u32, i32::MAX as u32, u32::MAX] {
        let served = Served::<W>::new(Limits::default(), Observed::echo());
        let mut raw = served.raw();
        raw.write(&declared.to_be_bytes());
        let reason = served.world.block_on(served.server.closed.take());
        assert_eq!(reason, CloseReason::Protocol(FrameError::Length { declared, limit: 16_777_212 }));
        assert!(raw.read(1).is_empty());
    }
}
