//! Which name servers are meant: said, or in the environment as RocketMQ's clients read it.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use staticfire::transport::{Endpoint, EndpointError};

use super::Failure;

/// Where RocketMQ's clients look when they are told nothing.
const VARIABLE: &str = "NAMESRV_ADDR";

/// One or several, separated by `;` or `,`.
#[derive(Clone, Debug)]
pub struct NameServers(Vec<Endpoint>);

impl FromStr for NameServers {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        Endpoint::list(text).map(Self)
    }
}

/// Those that were said.
pub fn said(lists: &[NameServers]) -> Vec<Endpoint> {
    lists.iter().flat_map(|list| list.0.iter().cloned()).collect()
}

/// Those that were said, else those of the environment, else the one on this machine.
pub fn chosen(lists: &[NameServers]) -> Result<Vec<Endpoint>, Failure> {
    let all = [said(lists), of_environment()?].into_iter().find(|all| !all.is_empty());
    Ok(all.unwrap_or_else(|| vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 9876)).into()]))
}

/// Those of the environment; none if it names none.
pub fn of_environment() -> Result<Vec<Endpoint>, Failure> {
    let text = env::var(VARIABLE).unwrap_or_default();
    Endpoint::list(&text)
        .map_err(|error| Failure::not_started(format!("the environment variable {VARIABLE}: {error}")))
}
