//! Where a server is found.

use std::fmt;
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::{BoxFuture, Transport};

/// The longest name of a host, in bytes (RFC 1035 §2.3.4).
const HOST_LEN_MAX: usize = 253;

/// `ip:port`, or `host:port`, whose host is looked up whenever a connection is wanted: it may have moved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// An address.
    Address(SocketAddr),
    /// A host by name.
    Host {
        /// Its name, of letters, digits, `-`, `_` and `.`; 1 to 253 bytes.
        name: String,
        /// The port.
        port: u16,
    },
}

impl Endpoint {
    /// Several, as RocketMQ writes them: separated by `;`, here also by `,`. Spaces around them and empty
    /// parts do not matter.
    ///
    /// ```
    /// use staticfire_transport::Endpoint;
    ///
    /// let two = Endpoint::list("10.0.0.1:9876; ns.example.org:9876")?;
    /// assert_eq!(two[1].to_string(), "ns.example.org:9876");
    /// # Ok::<(), staticfire_transport::EndpointError>(())
    /// ```
    ///
    /// # Errors
    /// A part is no endpoint.
    pub fn list(text: &str) -> Result<Vec<Self>, EndpointError> {
        let parts = text.split([';', ',']).map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect()
    }

    /// The addresses it has now, best first; never none.
    ///
    /// # Errors
    /// The host is not known, or nobody could be asked.
    pub fn resolve(&self, transport: &dyn Transport) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let (name, port) = match self {
            Self::Address(address) => return Box::pin(ready(Ok(vec![*address]))),
            Self::Host { name, port } => (name.clone(), *port),
        };
        let finding = transport.lookup(&name);
        Box::pin(async move {
            let found = finding.await?;
            if found.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, format!("host {name} has no address")));
            }
            Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
        })
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// A text that is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointError(String);

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is neither IP:PORT nor HOST:PORT", self.0)
    }
}

impl std::error::Error for EndpointError {}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let refused = || EndpointError(text.chars().take(HOST_LEN_MAX + 6).collect());
        let (name, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        // An address with a mistake in it is not looked up as a name.
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let fits = (1..=HOST_LEN_MAX).contains(&name.len());
        if !fits || is_number || !name.bytes().all(of_a_name) {
            return Err(refused());
        }
        let port = port.parse().map_err(|_| refused())?;
        Ok(Self::Host { name: name.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_told_apart() {
        let parse = str::parse::<Endpoint>;
        let host = |name: &str, port| Ok(Endpoint::Host { name: name.to_owned(), port });
        assert_eq!(parse("127.0.0.1:9876"), Ok(Endpoint::Address(([127, 0, 0, 1], 9876).into())));
        assert_eq!(parse("[::1]:9876"), Ok(Endpoint::Address("[::1]:9876".parse().unwrap())));
        assert_eq!(parse("localhost:9876"), host("localhost", 9876));
        assert_eq!(parse("name_server-1.example.org:1"), host("name_server-1.example.org", 1));
        let long = "a".repeat(HOST_LEN_MAX + 1) + ":1";
        for wrong in [
            "",
            ":",
            ":1",
            "a",
            "a:",
            "a:65536",
            "a:-1",
            "a b:1",
            "a/b:1",
            "::1:9876",
            "127.0.0:9876",
            "é:1",
            &long,
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let all = Endpoint::list(" a:1;127.0.0.1:2,;b:3; ").unwrap();
        assert_eq!(all.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "127.0.0.1:2", "b:3"]);
        assert_eq!(Endpoint::list(";"), Ok(Vec::new()));
        assert_eq!(Endpoint::list("a:1;b"), Err(EndpointError("b".to_owned())));
        for text in ["127.0.0.1:9876", "localhost:9876"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }
}
