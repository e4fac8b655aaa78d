//! Waiting without a particular runtime: a promise, a signal, and the first of two futures.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use staticfire_transport::Runtime;

/// Locks; a panic of another holder does not make the data unusable here, because every critical
/// section leaves it whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first of two.
pub(super) enum First<A, B> {
    /// The first future was done first, or both at once.
    Left(A),
    /// The second one.
    Right(B),
}

/// Waits for either; the other is dropped.
pub(super) async fn first_of<A: Future, B: Future>(a: A, b: B) -> First<A::Output, B::Output> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(move |cx| {
        if let Poll::Ready(output) = a.as_mut().poll(cx) {
            return Poll::Ready(First::Left(output));
        }
        b.as_mut().poll(cx).map(First::Right)
    })
    .await
}

/// Waits for all, in any order; the outputs are in the order of the futures.
pub(super) async fn all_of<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    poll_fn(|cx| {
        for (future, output) in &mut waiting {
            if output.is_none()
                && let Poll::Ready(done) = future.as_mut().poll(cx)
            {
                *output = Some(done);
            }
        }
        if waiting.iter().all(|(_, output)| output.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, output)| output).collect()
}

/// Waits for at most `limit`.
pub(super) async fn within<F: Future>(
    runtime: &dyn Runtime,
    limit: Duration,
    future: F,
) -> Option<F::Output> {
    match first_of(future, runtime.sleep(limit)).await {
        First::Left(output) => Some(output),
        First::Right(()) => None,
    }
}

/// One value, some day: the giving half.
pub(super) struct Promise<T>(Arc<Mutex<PromiseState<T>>>);

/// One value, some day: the waiting half. `None` when the giving half was dropped without one.
pub(super) struct Promised<T>(Arc<Mutex<PromiseState<T>>>);

struct PromiseState<T> {
    value: Option<T>,
    gone: bool,
    waker: Option<Waker>,
}

/// Both halves.
pub(super) fn promise<T>() -> (Promise<T>, Promised<T>) {
    let state = Arc::new(Mutex::new(PromiseState { value: None, gone: false, waker: None }));
    (Promise(Arc::clone(&state)), Promised(state))
}

impl<T> Promise<T> {
    /// Gives the value.
    pub(super) fn keep(self, value: T) {
        lock(&self.0).value = Some(value);
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = lock(&self.0);
            state.gone = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for Promised<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = lock(&self.0);
        if state.gone {
            return Poll::Ready(state.value.take());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Something that happens again and again. Waiters say how much of it they have seen, so nothing
/// that happens between looking and waiting is missed.
#[derive(Default)]
pub(super) struct Signal(Mutex<SignalState>);

#[derive(Default)]
struct SignalState {
    count: u64,
    waiting: Vec<Waker>,
}

impl Signal {
    /// It happens.
    pub(super) fn raise(&self) {
        let waiting = {
            let mut state = lock(&self.0);
            state.count += 1;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// How often it has happened.
    pub(super) fn count(&self) -> u64 {
        lock(&self.0).count
    }

    /// Waits until it has happened more often than `seen` times.
    pub(super) fn after(&self, seen: u64) -> impl Future<Output = ()> + '_ {
        poll_fn(move |cx| {
            let mut state = lock(&self.0);
            if state.count > seen {
                return Poll::Ready(());
            }
            if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_promise_is_kept_once_or_known_to_be_broken() {
        let (give, wait) = promise();
        let mut wait = pin!(wait);
        assert!(poll_once(wait.as_mut()).is_pending());
        give.keep(7);
        assert_eq!(poll_once(wait.as_mut()), Poll::Ready(Some(7)));
        let (give, wait) = promise::<i32>();
        drop(give);
        assert_eq!(poll_once(pin!(wait)), Poll::Ready(None));
    }

    #[test]
    fn a_signal_raised_before_the_wait_is_not_missed() {
        let signal = Signal::default();
        let seen = signal.count();
        signal.raise();
        assert!(poll_once(pin!(signal.after(seen))).is_ready());
        assert!(poll_once(pin!(signal.after(signal.count()))).is_pending());
    }

    #[test]
    fn all_of_keeps_the_order_of_its_futures() {
        let (give, wait) = promise();
        let futures: Vec<Pin<Box<dyn Future<Output = Option<i32>>>>> =
            vec![Box::pin(wait), Box::pin(async { Some(2) })];
        let mut all = pin!(all_of(futures));
        assert!(poll_once(all.as_mut()).is_pending());
        give.keep(1);
        assert_eq!(poll_once(all), Poll::Ready(vec![Some(1), Some(2)]));
    }
}
