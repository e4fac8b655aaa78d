//! The metrics of this process over HTTP, for whoever is on the same machine.

#![allow(clippy::disallowed_methods, reason = "the HTTP library blocks, so it has a thread of its own")]

use std::net::SocketAddr;
use std::thread;

use staticfire::broker::{NodeView, prometheus};
use tiny_http::{Header, Method, Response, Server};

use super::Failure;

/// Answers `GET /metrics` until the process ends, on a thread that dies with it. The address it has.
pub fn serve(listen: SocketAddr, brokers: Vec<NodeView>) -> Result<SocketAddr, Failure> {
    if !listen.ip().is_loopback() {
        return Err(Failure::not_started(format!(
            "metrics are for this machine: {listen} is no loopback address"
        )));
    }
    let not_started = |why: String| Failure::not_started(format!("metrics at {listen}: {why}"));
    let server = Server::http(listen).map_err(|error| not_started(error.to_string()))?;
    let address = server.server_addr().to_ip().ok_or_else(|| not_started("no address".to_owned()))?;
    let plain: Header = "Content-Type: text/plain; version=0.0.4".parse().expect("a header");
    let answer = move || {
        for request in server.incoming_requests() {
            let response = match (request.method(), request.url()) {
                (Method::Get, "/metrics") => {
                    Response::from_string(prometheus(&brokers)).with_header(plain.clone())
                }
                _ => Response::from_string("there is GET /metrics\n").with_status_code(404),
            };
            // Whoever asked and left needs no answer.
            let _ = request.respond(response);
        }
    };
    thread::Builder::new()
        .name("metrics".to_owned())
        .spawn(answer)
        .map_err(|error| not_started(error.to_string()))?;
    Ok(address)
}
