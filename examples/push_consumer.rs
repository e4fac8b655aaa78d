//! Prints messages as they come, each member of the group its share.
//!
//! ```sh
//! cargo run --release -- standalone            # in another terminal
//! cargo run --example push_consumer            # or, with another name server: ... push_consumer HOST:PORT
//! ```

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use staticfire::client::{
    Client, ClientOptions, ConsumeResult, PushConsumer, PushConsumerOptions, StartFrom, listener,
};
use staticfire::protocol::names::GroupName;
use staticfire::transport::Endpoint;
use staticfire::transport::tcp::{Tcp, TcpOptions};

/// Consumes `count` messages of the topic `orders`.
pub fn consume(name_server: Endpoint, count: u32) -> Result<(), Box<dyn Error + Send + Sync>> {
    let tcp = Tcp::start(TcpOptions::default())?;
    let client = Client::over_tcp(&tcp, ClientOptions::new([name_server]));
    let (consumed, enough) = (AtomicU32::new(0), Arc::new((Mutex::new(false), Condvar::new())));
    let tell = Arc::clone(&enough);
    // Called on the threads of `tcp`, so it must not block; work that waits goes into an `async_listener`.
    let print = listener(move |messages| {
        for message in messages {
            println!("{}: {}", message.id(), String::from_utf8_lossy(message.body()));
            if consumed.fetch_add(1, Ordering::Relaxed) + 1 == count {
                *tell.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
                tell.1.notify_all();
            }
        }
        ConsumeResult::Consumed // `Later` has them delivered once more, after a while
    });
    let options = PushConsumerOptions { start: StartFrom::Earliest, ..PushConsumerOptions::default() };
    let group = GroupName::new("warehouse")?;
    let consumer =
        tcp.block_on(PushConsumer::start(&client, group, options, [("orders", "paid || sent")], print))?;
    let done = enough.0.lock().unwrap_or_else(PoisonError::into_inner);
    drop(enough.1.wait_while(done, |done| !*done));
    // Stores how far the group got, and tells the other members.
    tcp.block_on(consumer.close(Duration::from_secs(3)));
    Ok(())
}

#[allow(dead_code, reason = "the tests call what it calls")]
fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let name_server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9876".to_owned());
    consume(name_server.parse()?, u32::MAX)
}
