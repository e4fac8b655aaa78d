//! Sends a few messages and says where they went.
//!
//! ```sh
//! cargo run --release -- standalone            # in another terminal
//! cargo run --example producer                 # or, with another name server: ... producer HOST:PORT
//! ```

use std::error::Error;

use staticfire::client::{Client, ClientOptions, Message, Producer, ProducerOptions};
use staticfire::protocol::names::GroupName;
use staticfire::transport::Endpoint;
use staticfire::transport::tcp::{Tcp, TcpOptions};

/// Sends `count` messages to the topic `orders`.
pub fn produce(name_server: Endpoint, count: u32) -> Result<(), Box<dyn Error + Send + Sync>> {
    let tcp = Tcp::start(TcpOptions::default())?; // threads of its own; every client of the process shares them
    let client = Client::over_tcp(&tcp, ClientOptions::new([name_server]));
    let producer = Producer::new(&client, GroupName::new("shop")?, ProducerOptions::default());
    tcp.block_on(async {
        for number in 0..count {
            let message =
                Message::new("orders", format!("order {number}"))?.tag("paid").key(&number.to_string());
            // Ok means: as safe as the broker promises. An error may also mean that nobody knows.
            let sent = producer.send(message).await?;
            println!("{:?}: number {} of queue {}", sent.status, sent.queue_offset, sent.queue.queue_id);
        }
        producer.close().await;
        Ok(())
    })
}

#[allow(dead_code, reason = "the tests call what it calls")]
fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let name_server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9876".to_owned());
    produce(name_server.parse()?, 5)
}
