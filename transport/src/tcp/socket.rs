//! Connected sockets as streams of a driver.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::Shared;
use super::accept::Permit;
use super::threads::{Home, Threads};
use crate::driver::{Driver, Stream};
use crate::{BoxFuture, Connection, Service};

/// A socket, and its place among the accepted ones if it is one of them.
struct Socket {
    stream: TcpStream,
    _permit: Option<Permit>,
}

impl Stream for Socket {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        // A read that does not fill the buffer marks the socket as drained: the next one waits for
        // an event without a system call.
        pin!(self.stream.read_buf(buffer)).poll(cx)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}

/// Gives an accepted socket its task. A socket that broke meanwhile is dropped.
pub(super) fn serve(
    stream: TcpStream,
    permit: Option<Permit>,
    service: &Arc<dyn Service>,
    shared: &Arc<Shared>,
    threads: &Threads,
) {
    let Home { handle, spaces, gather } = threads.next();
    let Ok(stream) = moved(stream, handle) else { return };
    let Ok((local, peer)) = prepared(&stream) else { return };
    let end = shared.end(local, peer, threads);
    let socket = Socket { stream, _permit: permit };
    handle.spawn(gather.over(Driver::new(end, socket, Arc::clone(service), Arc::clone(spaces))));
}

/// Registers a socket with the runtime that is to drive it.
fn moved(stream: TcpStream, to: &Handle) -> io::Result<TcpStream> {
    if Handle::current().id() == to.id() {
        return Ok(stream);
    }
    let stream = stream.into_std()?;
    let _entered = to.enter();
    TcpStream::from_std(stream)
}

fn prepared(stream: &TcpStream) -> io::Result<(SocketAddr, SocketAddr)> {
    stream.set_nodelay(true)?;
    Ok((stream.local_addr()?, stream.peer_addr()?))
}

pub(super) fn connect(
    to: SocketAddr,
    service: Arc<dyn Service>,
    shared: Arc<Shared>,
    threads: &Threads,
) -> BoxFuture<'static, io::Result<Connection>> {
    let Home { handle, spaces, gather } = threads.next().clone();
    let (hand_over, connected) = oneshot::channel();
    let threads = threads.clone();
    // On the runtime that will drive it, wherever the caller polls.
    handle.spawn(async move {
        let attempt = tokio::time::timeout(shared.limits.connect, TcpStream::connect(to)).await;
        let stream = attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let opened = stream.and_then(|stream| prepared(&stream).map(|addresses| (stream, addresses)));
        match opened {
            Ok((stream, (local, peer))) => {
                let end = shared.end(local, peer, &threads);
                drop(threads);
                let connection = Connection::new(Arc::clone(&end) as Arc<_>);
                // Nobody waits for it any more: the socket closes here.
                if hand_over.send(Ok(connection)).is_ok() {
                    let driver = Driver::new(end, Socket { stream, _permit: None }, service, spaces);
                    gather.over(driver).await;
                }
            }
            Err(error) => drop(hand_over.send(Err(error))),
        }
    });
    Box::pin(async move { connected.await.unwrap_or_else(|_| Err(io::ErrorKind::NotConnected.into())) })
}

/// Asks the system, on a thread of tokio's for what blocks.
pub(super) fn lookup(name: &str, threads: &Threads) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
    let (hand_over, found) = oneshot::channel();
    let name = name.to_owned();
    threads.next().handle.spawn(async move {
        let found = tokio::net::lookup_host((name, 0)).await;
        // Whoever asked may have given up.
        let _ = hand_over.send(found.map(|all| all.map(|address| address.ip()).collect()));
    });
    Box::pin(async move { found.await.unwrap_or_else(|_| Err(io::ErrorKind::NotConnected.into())) })
}
