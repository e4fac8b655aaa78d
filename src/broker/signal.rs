//! Waiting in tasks without a runtime's own tools: a counter that wakes, and time limits.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use staticfire_transport::{Monotonic, Runtime};

/// Something happened, again: a counter that tasks wait on.
#[derive(Debug, Default)]
pub struct Signal(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    count: u64,
    waiting: Vec<Waker>,
}

impl Signal {
    /// Counts one and wakes everybody who waits.
    pub fn raise(&self) {
        let mut state = self.lock();
        state.count += 1;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for waker in waiting {
            waker.wake();
        }
    }

    /// How often it was raised. Read it before looking at what the signal is about.
    pub fn count(&self) -> u64 {
        self.lock().count
    }

    /// Ready when it was raised more than `seen` times; else the task is woken when it is.
    pub fn poll_after(&self, seen: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.count > seen {
            return Poll::Ready(());
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for `ready`, at most until `deadline`: `None` when it came first.
pub async fn until<T>(
    runtime: &dyn Runtime,
    deadline: Monotonic,
    mut ready: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    let mut sleep = runtime.sleep_until(deadline);
    poll_fn(|cx| match ready(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// A value that somebody sets once and somebody else awaits. Never set, it is awaited for ever.
pub fn oneshot<T>() -> (Setter<T>, Awaited<T>) {
    let slot = Arc::new(Mutex::new((None, None)));
    (Setter(Arc::clone(&slot)), Awaited(slot))
}

type Slot<T> = Arc<Mutex<(Option<T>, Option<Waker>)>>;

/// See [`oneshot`].
pub struct Setter<T>(Slot<T>);

impl<T> Setter<T> {
    /// Sets the value and wakes who awaits it.
    pub fn set(self, value: T) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.0 = Some(value);
        let waker = slot.1.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// See [`oneshot`].
pub struct Awaited<T>(Slot<T>);

impl<T> Future for Awaited<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.0.take() {
            Some(value) => Poll::Ready(value),
            None => {
                slot.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
