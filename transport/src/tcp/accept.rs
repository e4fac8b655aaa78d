//! Listening sockets, and who is let in.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::threads::Threads;
use super::{Shared, socket};
use crate::{Listener, Service};

/// Connections the system keeps for us until we accept them.
const BACKLOG: u32 = 1024;

/// Wait after an accept that failed, mostly for want of file descriptors: trying again at once
/// would spin.
const AFTER_ERROR: Duration = Duration::from_millis(50);

pub(super) fn listen(
    at: SocketAddr,
    service: Arc<dyn Service>,
    shared: &Arc<Shared>,
    threads: &Threads,
) -> io::Result<Listener> {
    let _entered = threads.first().enter();
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    let listener = socket.listen(BACKLOG)?;
    let address = listener.local_addr()?;
    let open = Open(Arc::new(Mutex::new(Some(listener))));
    threads.first().spawn(accept_all(
        Open(Arc::clone(&open.0)),
        service,
        Arc::clone(shared),
        threads.clone(),
    ));
    Ok(Listener::new(address, Closing(open)))
}

struct Open(Arc<Mutex<Option<TcpListener>>>);

impl Open {
    fn lock(&self) -> MutexGuard<'_, Option<TcpListener>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` once the listener was dropped.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<(TcpStream, SocketAddr)>>> {
        match &*self.lock() {
            Some(listener) => listener.poll_accept(cx).map(Some),
            None => Poll::Ready(None),
        }
    }
}

/// Closes the socket at once, on whatever thread.
struct Closing(Open);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.lock().take();
    }
}

async fn accept_all(open: Open, service: Arc<dyn Service>, shared: Arc<Shared>, threads: Threads) {
    while let Some(accepted) = poll_fn(|cx| open.poll_accept(cx)).await {
        match accepted {
            Ok((stream, peer)) => {
                if let Some(permit) = shared.admission.admit(peer.ip()) {
                    socket::serve(stream, Some(permit), &service, &shared, &threads);
                }
            }
            Err(_) => tokio::time::sleep(AFTER_ERROR).await,
        }
    }
}

/// Counts accepted connections, in total and by address.
pub(super) struct Admission {
    total_max: usize,
    each_max: usize,
    open: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// One admitted connection; leaves the count when dropped.
pub(super) struct Permit {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    pub(super) fn new(total_max: usize, each_max: usize) -> Arc<Self> {
        Arc::new(Self { total_max, each_max, open: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Permit> {
        let mut counts = self.lock();
        let each = counts.by_address.get(&address).copied().unwrap_or(0);
        if counts.total >= self.total_max || each >= self.each_max {
            return None;
        }
        counts.total += 1;
        counts.by_address.insert(address, each + 1);
        Some(Permit { admission: Arc::clone(self), address })
    }

    pub(super) fn open(&self) -> usize {
        self.lock().total
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.admission.lock();
        counts.total -= 1;
        if let Some(each) = counts.by_address.get_mut(&self.address) {
            *each -= 1;
            if *each == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}
