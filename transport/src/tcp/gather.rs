//! Wake-ups that come from other threads, gathered.
//!
//! ```text
//!   the disk's thread                           a thread under sockets
//!   wake 1 ──> list empty: wake the passer ───> passer: takes the list, wakes 1, 2, 3 here
//!   wake 2 ──> list                             driver 1 writes, driver 2 writes, driver 3 writes
//!   wake 3 ──> list
//! ```
//! A flush that ends wakes every connection whose answers waited for it. From another thread each of
//! these wake-ups is a system call; gathered, it is one for all.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};

/// The wake-ups on their way to one thread.
#[derive(Default)]
pub(super) struct Gather {
    /// The thread, which needs no detour.
    home: OnceLock<ThreadId>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tasks: Vec<Waker>,
    /// The passer, unless it was woken already.
    passer: Option<Waker>,
}

impl Gather {
    /// What passes the wake-ups on: never ends, and runs on the thread that polls it first.
    pub(super) fn passer(self: &Arc<Self>) -> impl Future<Output = ()> + use<> {
        let gather = Arc::clone(self);
        poll_fn(move |cx| {
            gather.home.get_or_init(|| thread::current().id());
            let mut state = gather.lock();
            state.passer = Some(cx.waker().clone());
            let tasks = std::mem::take(&mut state.tasks);
            drop(state);
            tasks.into_iter().for_each(Waker::wake);
            Poll::Pending
        })
    }

    /// `future`, whose wake-ups from other threads are gathered. It runs on the passer's thread.
    pub(super) fn over<F: Future + Unpin>(self: &Arc<Self>, future: F) -> Gathered<F> {
        Gathered { future, gather: Arc::clone(self), waker: None }
    }

    fn wake(&self, task: Waker) {
        let mut state = self.lock();
        state.tasks.push(task);
        let passer = state.passer.take();
        drop(state);
        if let Some(passer) = passer {
            passer.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Gather::over`].
pub(super) struct Gathered<F> {
    future: F,
    gather: Arc<Gather>,
    /// The waker of the task, and the one made of it.
    waker: Option<(Waker, Waker)>,
}

impl<F: Future + Unpin> Future for Gathered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, gather, waker } = self.get_mut();
        if waker.as_ref().is_some_and(|(task, _)| !task.will_wake(cx.waker())) {
            *waker = None;
        }
        let (_, gathering) = waker.get_or_insert_with(|| {
            let task = cx.waker().clone();
            let through = Through { gather: Arc::clone(gather), task: task.clone() };
            (task, Waker::from(Arc::new(through)))
        });
        Pin::new(future).poll(&mut Context::from_waker(gathering))
    }
}

struct Through {
    gather: Arc<Gather>,
    task: Waker,
}

impl Wake for Through {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.gather.home.get() == Some(&thread::current().id()) {
            self.task.wake_by_ref();
        } else {
            self.gather.wake(self.task.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands out the waker it is polled with.
    struct Caught(Option<Waker>);

    impl Future for Caught {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            self.0 = Some(cx.waker().clone());
            Poll::Pending
        }
    }

    fn caught(gather: &Arc<Gather>, task: &Arc<Counted>) -> Waker {
        let mut future = gather.over(Caught(None));
        let waker = Waker::from(Arc::clone(task));
        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
        future.future.0.expect("it was polled")
    }

    /// proves: D11
    #[test]
    fn many_wake_ups_from_elsewhere_wake_the_thread_once_and_each_task() {
        let (gather, thread_woken) = (Arc::new(Gather::default()), Arc::new(Counted::default()));
        let tasks: Vec<Arc<Counted>> = (0..3).map(|_| Arc::default()).collect();
        let wakers: Vec<Waker> = tasks.iter().map(|task| caught(&gather, task)).collect();
        let count = |of: &Counted| of.0.load(Ordering::Relaxed);
        let passer_waker = Waker::from(Arc::clone(&thread_woken));
        let (mut passer, mut cx) = (Box::pin(gather.passer()), Context::from_waker(&passer_waker));
        assert!(passer.as_mut().poll(&mut cx).is_pending());
        for round in 1..=2 {
            thread::scope(|scope| {
                scope.spawn(|| wakers.iter().for_each(Waker::wake_by_ref));
            });
            assert_eq!(count(&thread_woken), round);
            assert!(tasks.iter().all(|task| count(task) == round - 1), "not before the passer ran");
            assert!(passer.as_mut().poll(&mut cx).is_pending());
            assert!(tasks.iter().all(|task| count(task) == round));
        }
        wakers[0].wake_by_ref();
        assert_eq!((count(&tasks[0]), count(&thread_woken)), (3, 2), "at home without a detour");
    }
}
