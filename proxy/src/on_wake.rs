//! A future that is polled only when it was woken: for what rarely happens and
//! stands beside work in the same task that happens all the time.
//!
//! Invariant: it is ready once. Whoever polls it again waits for ever.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// See the module.
pub(crate) struct OnWake<F> {
    future: Option<Pin<Box<F>>>,
    bell: Arc<Bell>,
    /// Of `bell`, for `future`.
    waker: Waker,
    /// Whom `bell` wakes.
    task: Option<Waker>,
}

struct Bell {
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<F: Future> OnWake<F> {
    pub(crate) fn new(future: F) -> Self {
        let bell = Arc::new(Bell {
            rung: AtomicBool::new(true),
            task: Mutex::default(),
        });
        Self {
            future: Some(Box::pin(future)),
            waker: Waker::from(Arc::clone(&bell)),
            bell,
            task: None,
        }
    }
}

impl<F: Future> Future for OnWake<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        if !this.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            let task = Some(cx.waker().clone());
            this.bell
                .task
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone_from(&task);
            this.task = task;
        }
        // Taken before the future looks, so that what comes meanwhile counts.
        if !this.bell.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let Some(future) = &mut this.future else {
            return Poll::Pending;
        };
        let polled = future.as_mut().poll(&mut Context::from_waker(&this.waker));
        if polled.is_ready() {
            this.future = None;
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_when_it_was_woken_and_not_before() {
        let (send, mut receive) = oneshot::channel();
        let mut polls = 0;
        let mut watched = OnWake::new(poll_fn(|cx| {
            polls += 1;
            Pin::new(&mut receive).poll(cx)
        }));
        for _ in 0..5 {
            let pending = poll_fn(|cx| Poll::Ready(Pin::new(&mut watched).poll(cx).is_pending())).await;
            assert!(pending);
        }
        send.send(7).unwrap();
        assert_eq!((&mut watched).await.unwrap(), 7);
        watched.waker.wake_by_ref();
        let again = poll_fn(|cx| Poll::Ready(Pin::new(&mut watched).poll(cx).is_pending()));
        assert!(again.await, "it is ready once");
        drop(watched);
        assert_eq!(polls, 2);
    }
}
