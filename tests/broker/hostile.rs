//! Peers that break the rules of the conversation: nothing they say passes for somebody else's, and the others are served.

use std::ops::Deref;
use std::time::Duration;

use staticfire::protocol::codes::{request, response};
use staticfire::transport::{Command, Language};

use crate::world::{World, pull, send};

const EXTREMES: [i32; 5] = [i32::MIN, -1, 0, 1, i32::MAX];

/// proves: B25
#[test]
fn a_header_of_extremes_is_answered_once_or_ignored() {
    let mut world = World::new(1);
    let (hostile, client) = (world.client(), world.client());
    let mut ignored = 0;
    for code in
        EXTREMES.into_iter().chain([request::SEND_MESSAGE_V2, request::PULL_MESSAGE, request::HEART_BEAT])
    {
        for (flag, version) in EXTREMES.into_iter().chain([2, 3]).flat_map(|flag| EXTREMES.map(|v| (flag, v)))
        {
            let language = if version < 0 { Language::Unknown } else { Language::Cpp };
            let command = Command { flag, version, language, ..Command::request(code) };
            if command.is_response() || command.is_one_way() {
                ignored += 1;
                hostile.tell(command);
            } else {
                let answer = hostile.ask(command);
                assert!(answer.is_response() && answer.code != 0, "{code} {flag} {version}: {answer:?}");
            }
        }
    }
    assert!(ignored > 0);
    assert_eq!(client.ask(send("orders", 0, "served")).code, 0);
    assert!(hostile.heard().is_empty(), "what wants no answer gets none");
    assert!(hostile.connection.is_open());
}

/// proves: B25, B26
///
/// A tool asks a consumer through the broker. Whoever else answers, with any opaque, is not believed.
#[test]
fn nobody_answers_for_a_consumer_from_another_connection() {
    let mut world = World::new(2);
    let (consumer, tool, intruder) = (world.client(), world.client(), world.client());
    let beat = r#"{"clientID":"a","consumerDataSet":[{"consumeFromWhere":0,"consumeType":1,"groupName":"G","messageModel":1,"subscriptionDataSet":[]}],"producerDataSet":[]}"#;
    let beat = Command { version: 493, ..Command::request(request::HEART_BEAT).with_body(beat) };
    assert_eq!(consumer.ask(beat).code, 0);
    consumer.heard();
    let ask = Command::request(request::GET_CONSUMER_RUNNING_INFO);
    let mut call = tool.start(ask.with_ext("consumerGroup", "G").with_ext("clientId", "a"));
    consumer.run(Duration::from_millis(50));
    let [question] = &consumer.deref().heard()[..] else { panic!("one question") };
    assert_eq!(question.code, request::GET_CONSUMER_RUNNING_INFO);
    for opaque in question.opaque - 100..question.opaque + 100 {
        intruder.tell(Command { opaque, ..question.answer(response::SUCCESS).with_body("forged") });
    }
    assert_eq!(tool.poll(&mut call, Duration::from_millis(50)), None, "somebody else's answer is none");
    consumer.tell(question.answer(response::SUCCESS).with_body("true"));
    assert_eq!(tool.wait(call).body.to_bytes(), "true");
    // The same answer again, and to a question that nobody asked.
    for opaque in [question.opaque, i32::MAX, i32::MIN] {
        consumer.tell(Command { opaque, ..question.answer(response::SUCCESS).with_body("late") });
    }
    assert_eq!(consumer.ask(send("orders", 0, "x")).code, 0);
    assert_eq!(world.cluster.network().stray_answers(), 203, "all of them are counted");
}

/// proves: B26
///
/// Connections number their requests by themselves: the same number twice is two requests.
#[test]
fn equal_opaques_of_two_connections_get_their_own_answers() {
    let mut world = World::new(3);
    let (a, b) = (world.client(), world.client());
    assert_eq!(a.ask(send("orders", 0, "of a")).code, 0);
    assert_eq!(b.ask(send("orders", 1, "of b")).code, 0);
    for queue in [0, 1] {
        // Two that wait, and one that asks between them, all with the number of the first.
        let held = Command { opaque: 7, ..pull("orders", queue, 1, "*", 5) };
        let (mut of_a, mut of_b) = (a.start(held.clone()), b.start(held.clone()));
        assert_eq!(
            (a.poll(&mut of_a, Duration::from_millis(20)), b.poll(&mut of_b, Duration::from_millis(20))),
            (None, None)
        );
        assert_eq!(b.ask(Command { opaque: 7, ..send("orders", queue, "for both") }).code, 0);
        for (client, call) in [(&a, of_a), (&b, of_b)] {
            let bytes = client.wait(call).body.to_bytes();
            assert!(bytes.windows(8).any(|at| at == b"for both"), "queue {queue}");
        }
    }
    assert_eq!(world.cluster.network().stray_answers(), 0);
}
