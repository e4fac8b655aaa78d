//! The contract, on loopback sockets.

#![expect(clippy::disallowed_types, reason = "a peer without our transport")]

use super::*;
use crate::contract::{LONG, Place, Raw, World};
use std::io::{Read, Write};
use std::net::TcpStream;

struct Loopback {
    server: Tcp,
    client: Tcp,
}

fn start(limits: &Limits, threads: usize) -> Tcp {
    Tcp::start(TcpOptions { threads, limits: limits.clone(), ..TcpOptions::default() })
        .expect("threads and sockets")
}

impl Loopback {
    fn host(&self, place: Place) -> Arc<Tcp> {
        Arc::new(if place == Place::Server { &self.server } else { &self.client }.clone())
    }
}

impl World for Loopback {
    fn start(limits: Limits) -> Self {
        Self { server: start(&limits, 1), client: start(&limits, 1) }
    }

    fn transport(&self, host: Place) -> Arc<dyn Transport> {
        self.host(host)
    }

    fn runtime(&self, host: Place) -> Arc<dyn Runtime> {
        self.host(host)
    }

    fn server_address(&self) -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.client.block_on(limited(&self.client, future))
    }

    fn raw(&self, to: SocketAddr) -> impl Raw {
        Bytes(TcpStream::connect(to).expect("somebody listens"))
    }
}

/// Panics when `future` takes too long, so that a broken promise does not hang the tests.
async fn limited<T>(tcp: &Tcp, future: impl Future<Output = T>) -> T {
    let (mut future, mut sleep) = (pin!(future), tcp.sleep(LONG));
    poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        assert!(polled.is_ready() || sleep.as_mut().poll(cx).is_pending(), "not ready in time");
        polled
    })
    .await
}

struct Bytes(TcpStream);

impl Raw for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.set_write_timeout(Some(Duration::from_millis(100))).expect("a socket");
        // The other end may stop reading, or close.
        let _ = self.0.write_all(bytes);
    }

    fn read(&mut self, bytes: usize) -> Vec<u8> {
        self.0.set_read_timeout(Some(LONG)).expect("a socket");
        let mut buffer = Vec::new();
        while buffer.len() < bytes {
            let mut part = vec![0; bytes - buffer.len()];
            match self.0.read(&mut part) {
                Ok(0) | Err(_) => break,
                Ok(read) => buffer.extend_from_slice(&part[..read]),
            }
        }
        buffer
    }
}

crate::contract_tests!(Loopback);

/// The same on more threads, with connections on all of them.
mod on_three_threads {
    use super::*;

    struct Threaded(Loopback);

    impl World for Threaded {
        fn start(limits: Limits) -> Self {
            Self(Loopback { server: start(&limits, 3), client: start(&limits, 3) })
        }

        fn transport(&self, host: Place) -> Arc<dyn Transport> {
            self.0.transport(host)
        }

        fn runtime(&self, host: Place) -> Arc<dyn Runtime> {
            self.0.runtime(host)
        }

        fn server_address(&self) -> SocketAddr {
            self.0.server_address()
        }

        fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
            self.0.block_on(future)
        }

        fn raw(&self, to: SocketAddr) -> impl Raw {
            self.0.raw(to)
        }
    }

    crate::contract_tests!(Threaded);
}
