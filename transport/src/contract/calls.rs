//! Connecting and calling.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{ENCODINGS, LONG, Mailbox, Observed, Place, Raw, Served, World, boxed, echo, frame};
use crate::limits::Limits;
use crate::{CallError, Command};

/// An answer has its call's opaque and everything that was sent, in the encoding of the request.
pub fn a_call_gets_the_answer_of_its_opaque<W: World>() {
    let served = Served::<W>::new(Limits::default(), Observed::echo());
    let connection = served.dial(&Observed::echo());
    for encoding in ENCODINGS {
        let mut request = Command::request(105).with_ext("topic", "TopicTest").with_body(vec![3; 700]);
        request.encoding = encoding;
        request.opaque = 1234;
        let answer = served.call(&connection, request.clone());
        assert!(answer.is_response());
        assert_eq!((&answer.ext, &answer.body, answer.encoding), (&request.ext, &request.body, encoding));
    }
}

/// The client's peer is the address it dialled, the server's peer is the client's own.
pub fn both_ends_know_the_addresses<W: World>() {
    let served = Served::<W>::new(Limits::default(), Observed::echo());
    let client = Observed::echo();
    let connection = served.dial(&client);
    let accepted = served.world.block_on(served.server.opened.take());
    assert_eq!(served.world.block_on(client.opened.take()).id(), connection.id());
    assert_eq!(connection.peer(), served.listener.address());
    assert_eq!((accepted.peer(), accepted.local()), (connection.local(), connection.peer()));
    let again = served.dial(&client);
    assert_ne!(again.id(), connection.id());
}

/// A port without a listener refuses.
pub fn nobody_listens_is_refused<W: World>() {
    let served = Served::<W>::new(Limits::default(), Observed::echo());
    let address = served.listener.address();
    drop(served.listener);
    let connect = served.world.transport(Place::Client).connect(address, Observed::echo());
    let error = served.world.block_on(connect).expect_err("nobody listens");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

/// A second listener on the same address is an error.
pub fn an_address_is_listened_to_once<W: World>() {
    let served = Served::<W>::new(Limits::default(), Observed::echo());
    let transport = served.world.transport(Place::Server);
    let error = transport.listen(served.listener.address(), Observed::echo()).expect_err("it is in use");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

/// Answers are matched by opaque, whatever their order.
pub fn answers_in_any_order_find_their_calls<W: World>() {
    let (server, inbox) = Observed::collect();
    let served = Served::<W>::new(Limits::default(), server);
    let connection = served.dial(&Observed::echo());
    let calls: Vec<_> =
        (0..50).map(|at| connection.call(Command::request(at).with_ext("at", at), LONG)).collect();
    served.world.block_on(async {
        let accepted = served.server.opened.take().await;
        let mut requests = Vec::new();
        for _ in 0..50 {
            requests.push(inbox.take().await);
        }
        for request in requests.iter().rev() {
            accepted.send(echo(request)).expect("it is open");
        }
        for (at, call) in calls.into_iter().enumerate() {
            let answer = call.await.expect("an answer");
            assert_eq!(answer.ext.get("at"), Some(at.to_string().as_str()));
        }
    });
}

/// One-way requests arrive in the order of all requests, and are never answered.
pub fn a_one_way_request_gets_no_answer_and_keeps_its_place<W: World>() {
    let (server, inbox) = Observed::collect();
    let served = Served::<W>::new(Limits::default(), server);
    let connection = served.dial(&Observed::echo());
    for code in 0..20 {
        connection.send(Command::one_way(code)).expect("it is open");
    }
    let call = connection.call(Command::request(20), Duration::from_millis(50));
    served.world.block_on(async {
        for code in 0..=20 {
            assert_eq!(inbox.take().await.code, code);
        }
        assert_eq!(call.await, Err(CallError::TimedOut));
    });
}

/// A service may answer after its turn, from a task or another thread.
pub fn an_answer_may_come_later_from_elsewhere<W: World>() {
    let (server, inbox) = Observed::collect();
    let served = Served::<W>::new(Limits::default(), server);
    let connection = served.dial(&Observed::echo());
    let call = connection.call(Command::request(11).with_body("wait"), LONG);
    let accepted = served.world.block_on(served.server.opened.take());
    let request = served.world.block_on(inbox.take());
    let runtime = served.world.runtime(Place::Server);
    let pause = runtime.sleep(Duration::from_millis(20));
    runtime.spawn(boxed(async move {
        pause.await;
        accepted.send(echo(&request)).expect("it is open");
    }));
    assert_eq!(served.world.block_on(call).expect("an answer").body.to_bytes(), "wait");
}

/// Both ends ask on one connection, with opaques of their own.
pub fn both_ends_may_ask<W: World>() {
    let served = Served::<W>::new(Limits::default(), Observed::echo());
    let connection = served.dial(&Observed::echo());
    let accepted = served.world.block_on(served.server.opened.take());
    let calls: Vec<_> = (0..20)
        .flat_map(|at| [(&connection, at), (&accepted, 100 + at)])
        .map(|(end, at)| (at, end.call(Command::request(1).with_ext("at", at), LONG)))
        .collect();
    served.world.block_on(async {
        for (at, call) in calls {
            assert_eq!(call.await.expect("an answer").ext.get("at"), Some(at.to_string().as_str()));
        }
    });
}

/// A late answer is ignored, and the connection goes on.
pub fn a_call_without_an_answer_times_out_and_the_connection_goes_on<W: World>() {
    let (server, inbox) = Observed::collect();
    let served = Served::<W>::new(Limits::default(), server);
    let connection = served.dial(&Observed::echo());
    let limit = Duration::from_millis(40);
    let clock = served.world.runtime(Place::Client);
    let started = clock.now();
    let call = connection.call(Command::request(1), limit);
    assert_eq!(served.world.block_on(call), Err(CallError::TimedOut));
    assert!(clock.now().since(started) >= limit);
    let next = connection.call(Command::request(2), LONG);
    served.world.block_on(async {
        let accepted = served.server.opened.take().await;
        for _ in 0..2 {
            let request = inbox.take().await;
            accepted.send(request.answer(request.code)).expect("it is open");
        }
        assert_eq!(next.await.expect("an answer").code, 2);
    });
}

/// A call whose future is dropped leaves all the same, and its answer harms nothing.
pub fn a_dropped_call_is_forgotten<W: World>() {
    let (server, inbox) = Observed::collect();
    let served = Served::<W>::new(Limits::default(), server);
    let connection = served.dial(&Observed::echo());
    drop(connection.call(Command::request(1), LONG));
    let next = connection.call(Command::request(2), LONG);
    served.world.block_on(async {
        let accepted = served.server.opened.take().await;
        for code in 1..=2 {
            let request = inbox.take().await;
            assert_eq!(request.code, code);
            accepted.send(request.answer(code)).expect("it is open");
        }
        assert_eq!(next.await.expect("an answer").code, 2);
    });
}

/// Five thousand calls wait at once on one connection.
pub fn thousands_of_calls_are_in_flight<W: World>() {
    let served = Served::<W>::new(Limits::default(), Observed::echo());
    let connection = served.dial(&Observed::echo());
    let calls: Vec<_> =
        (0..5000).map(|at| connection.call(Command::request(1).with_ext("at", at), LONG)).collect();
    served.world.block_on(async {
        for (at, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.expect("an answer").ext.get("at"), Some(at.to_string().as_str()));
        }
    });
}

/// What one read delivers is one turn, and requests keep their order.
pub fn frames_that_arrive_together_are_one_turn<W: World>() {
    let turns = Arc::new(Mailbox::default());
    let told = Arc::clone(&turns);
    let server = Observed::new(move |_, requests| {
        told.put(requests.drain(..).map(|request| request.code).collect::<Vec<_>>());
    });
    let served = Served::<W>::new(Limits::default(), server);
    let mut raw = served.raw();
    let bytes: Vec<u8> = (0..200).flat_map(|code| frame(&Command::one_way(code))).collect();
    raw.write(&bytes);
    served.world.block_on(async {
        let (mut codes, mut count) = (Vec::new(), 0);
        while codes.len() < 200 {
            codes.extend(turns.take().await);
            count += 1;
        }
        assert_eq!(codes, (0..200).collect::<Vec<_>>());
        assert!(count <= 20, "{count} turns for 200 frames of one write");
    });
}

/// `send_all` drains its vector and keeps the order.
pub fn sent_together_arrives_in_order<W: World>() {
    let (server, inbox) = Observed::collect();
    let served = Served::<W>::new(Limits::default(), server);
    let connection = served.dial(&Observed::echo());
    let mut commands: Vec<_> = (0..100).map(Command::one_way).collect();
    connection.send_all(&mut commands).expect("it is open");
    assert!(commands.is_empty());
    served.world.block_on(async {
        for code in 0..100 {
            assert_eq!(inbox.take().await.code, code);
        }
    });
}

/// proves: B25, B26
///
/// Whoever guesses an opaque on another connection answers nobody's question, also in the guise of a
/// request, and the same opaque on two connections is two questions.
pub fn an_answer_from_another_connection_is_ignored<W: World>() {
    let (server, asked_of_server) = Observed::collect();
    let served = Served::<W>::new(Limits::default(), server);
    let (client, asked) = Observed::collect();
    let connection = served.dial(&client);
    let accepted = served.world.block_on(served.server.opened.take());
    let call = accepted.call(Command::request(307), LONG);
    let question = served.world.block_on(asked.take());

    let intruder = served.dial(&Observed::echo());
    let other = served.world.block_on(served.server.opened.take());
    for opaque in question.opaque - 50..question.opaque + 50 {
        let mut forged = question.answer(0).with_body("forged");
        forged.opaque = opaque;
        intruder.send(forged.clone()).expect("it is open");
        // The flag of an answer on what asks for one.
        forged.code = 310;
        intruder.send(forged).expect("it is open");
    }
    // Behind all of them: the answers were looked at.
    intruder.send(Command::one_way(1)).expect("it is open");
    assert_eq!(served.world.block_on(asked_of_server.take()).code, 1);

    let same = other.call(Command::request(308), Duration::from_millis(50));
    connection.send(question.answer(0).with_body("true")).expect("it is open");
    assert_eq!(served.world.block_on(call).expect("an answer").body.to_bytes(), "true");
    // Answered by the echo of the intruder, not by what it forged before the question came.
    let same = served.world.block_on(same).expect("an answer");
    assert_eq!(same.body.to_bytes(), "");
    assert!(asked_of_server.is_empty(), "no answer passes for a request");
}
