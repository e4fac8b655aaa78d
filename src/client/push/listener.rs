//! Who gets the messages of a push consumer.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use staticfire_transport::BoxFuture;

use crate::client::ReceivedMessage;

/// What became of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeResult {
    /// They are consumed.
    Consumed,
    /// They must come again. A concurrent consumer gets them after a delay that grows with each
    /// time, and other messages meanwhile; an ordered consumer after a second, and nothing else of
    /// that queue meanwhile.
    Later,
    /// As `Later`, after the delay of a level ([`delay`](crate::protocol::delay)); below 0, they
    /// become dead letters at once.
    LaterAtLevel(i32),
}

/// Consumes messages.
pub trait Listener: Send + Sync {
    /// Consumes some messages of one queue, oldest first. A panic counts as
    /// [`ConsumeResult::Later`].
    fn consume(&self, messages: Vec<ReceivedMessage>) -> BoxFuture<'static, ConsumeResult>;
}

/// A listener that is a function. It runs on the thread that drives the consumer and must not block;
/// use [`async_listener`] for work that waits.
pub fn listener(
    consume: impl Fn(&[ReceivedMessage]) -> ConsumeResult + Send + Sync + 'static,
) -> Arc<dyn Listener> {
    struct Function<F>(Arc<F>);

    impl<F: Fn(&[ReceivedMessage]) -> ConsumeResult + Send + Sync + 'static> Listener for Function<F> {
        fn consume(&self, messages: Vec<ReceivedMessage>) -> BoxFuture<'static, ConsumeResult> {
            let function = Arc::clone(&self.0);
            Box::pin(async move { function(&messages) })
        }
    }

    Arc::new(Function(Arc::new(consume)))
}

/// A listener that is an async function.
pub fn async_listener<F, R>(consume: F) -> Arc<dyn Listener>
where
    F: Fn(Vec<ReceivedMessage>) -> R + Send + Sync + 'static,
    R: Future<Output = ConsumeResult> + Send + 'static,
{
    struct Function<F>(F);

    impl<F, R> Listener for Function<F>
    where
        F: Fn(Vec<ReceivedMessage>) -> R + Send + Sync,
        R: Future<Output = ConsumeResult> + Send + 'static,
    {
        fn consume(&self, messages: Vec<ReceivedMessage>) -> BoxFuture<'static, ConsumeResult> {
            Box::pin(self.0(messages))
        }
    }

    Arc::new(Function(consume))
}

/// Calls a listener; its panic is its own.
pub(super) async fn consume(listener: &dyn Listener, messages: Vec<ReceivedMessage>) -> ConsumeResult {
    let started = catch_unwind(AssertUnwindSafe(|| listener.consume(messages)));
    let Ok(mut consuming) = started else { return ConsumeResult::Later };
    poll_fn(move |cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| consuming.as_mut().poll(cx)));
        polled.unwrap_or(Poll::Ready(ConsumeResult::Later))
    })
    .await
}
