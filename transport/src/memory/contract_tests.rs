//! The contract, on simulated hosts, for some seeds.

use super::*;
use crate::contract::{LONG, Place, Raw, World};
use crate::{Runtime, Transport};
use bytes::BytesMut;
use std::net::SocketAddr;

struct Simulated<const SEED: u64> {
    network: Network,
    server: Host,
    client: Host,
}

impl<const SEED: u64> Simulated<SEED> {
    fn host(&self, place: Place) -> Arc<Host> {
        Arc::new(if place == Place::Server { &self.server } else { &self.client }.clone())
    }
}

impl<const SEED: u64> World for Simulated<SEED> {
    fn start(limits: Limits) -> Self {
        let network = Network::with_limits(SEED, limits);
        network.tolerate_panics(true);
        let host = |last| network.host(IpAddr::from([10, 0, 0, last]));
        Self { server: host(1), client: host(2), network }
    }

    fn transport(&self, host: Place) -> Arc<dyn Transport> {
        self.host(host)
    }

    fn runtime(&self, host: Place) -> Arc<dyn Runtime> {
        self.host(host)
    }

    fn server_address(&self) -> SocketAddr {
        SocketAddr::new(self.server.ip(), 0)
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        // Less than the calls of the suite wait for their answers.
        self.network.block_on(future, LONG / 4).expect("ready in time")
    }

    fn raw(&self, to: SocketAddr) -> impl Raw {
        let stream = self.block_on(self.client.stream(to)).expect("somebody listens");
        Bytes { network: self.network.clone(), stream }
    }
}

struct Bytes {
    network: Network,
    stream: RawStream,
}

impl Raw for Bytes {
    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.network.block_on(self.stream.write(bytes), Duration::from_millis(100)) {
                Some(Ok(written)) => bytes = &bytes[written..],
                _ => return,
            }
        }
    }

    fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut buffer = BytesMut::with_capacity(bytes);
        while buffer.len() < bytes {
            match self.network.block_on(self.stream.read(&mut buffer), LONG).expect("bytes or the end") {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        buffer.to_vec()
    }
}

crate::contract_tests!(Simulated<42>);

mod another_seed {
    crate::contract_tests!(super::Simulated<7>);
}

mod a_third_seed {
    crate::contract_tests!(super::Simulated<1_000_003>);
}
