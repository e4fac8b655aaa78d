//! The broker and its name servers, nameserver.md §4.

use std::time::Duration;

use staticfire::protocol::codes::{request, response};
use staticfire::transport::Command;

use crate::tools::create;
use crate::world::{Client, World, send};

const SECOND: Duration = Duration::from_secs(1);

fn route(names: &Client, topic: &str) -> i32 {
    names.ask(Command::request(request::GET_ROUTEINFO_BY_TOPIC).with_ext("topic", topic)).code
}

#[test]
fn a_name_server_that_forgot_everything_is_told_everything() {
    let mut world = World::new(1);
    let client = world.client();
    client.ask(create("orders", 2));
    world.restart_name_server();
    let names = world.name_server();
    names.run(3 * SECOND);
    assert_eq!((route(&names, "orders"), route(&names, "TBW102")), (0, 0));
    assert_eq!(client.ask(create("more", 2)).code, 0);
    assert_eq!(route(&names, "more"), 0, "changes are registered on the new connection");
}

/// The heartbeat keeps a broker routed far beyond the expiry of 120 s.
#[test]
fn a_broker_stays_registered_while_it_lives_and_leaves_when_it_stops() {
    let mut world = World::new(2);
    let client = world.client();
    client.ask(send("orders", 0, "x"));
    client.run(600 * SECOND);
    let names = world.name_server();
    assert_eq!(route(&names, "orders"), 0);
    world.stop();
    assert_eq!(route(&names, "orders"), response::TOPIC_NOT_EXIST);
}

/// A name server that cannot be reached holds nobody up; when it is back it is told everything.
#[test]
fn a_missing_name_server_is_not_waited_for() {
    let mut world = World::with(3, |options| options.name_servers.push("10.0.0.8:9876".parse().unwrap()));
    let client = world.client();
    let mut created = client.start(create("orders", 2));
    assert_eq!(client.poll(&mut created, SECOND).expect("at once").code, 0);
    assert_eq!(route(&world.name_server(), "orders"), 0);
}
