//! A future that is polled only when it was woken: for what rarely happens and
//! stands beside work in the same task that happens all the time.
//!
//! Invariant: it is ready once. Whoever polls it again waits for ever.

use std::pin::Pin;
use std::task::{Context, Poll};

use watchword_tunnel::Bell;

/// See the module.
pub(crate) struct OnWake<F> {
    future: Option<Pin<Box<F>>>,
    bell: Bell,
}

impl<F: Future> OnWake<F> {
    pub(crate) fn new(future: F) -> Self {
        Self {
            future: Some(Box::pin(future)),
            bell: Bell::hung(),
        }
    }
}

impl<F: Future> Future for OnWake<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let Some(future) = &mut this.future else {
            return Poll::Pending;
        };
        let polled = this.bell.poll(cx, |cx| future.as_mut().poll(cx));
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
        let again = poll_fn(|cx| Poll::Ready(Pin::new(&mut watched).poll(cx).is_pending()));
        assert!(again.await, "it is ready once");
        drop(watched);
        assert_eq!(polls, 2);
    }
}
