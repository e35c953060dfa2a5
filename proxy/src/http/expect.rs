//! `Expect: 100-continue`: the caller is told to go on when the app says so,
//! not before (RFC 9110 section 10.1.1).
//!
//! Invariant: an app that never says so gets the body after a while, as it
//! would from a client.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header;
use http::{HeaderMap, StatusCode};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

/// How long clients wait before they send without being asked (curl's time).
const PATIENCE: Duration = Duration::from_secs(1);

/// To ask the caller for the body.
pub(crate) struct Permission {
    /// None once it can't come any more.
    given: Option<oneshot::Receiver<()>>,
    patience: Pin<Box<Sleep>>,
}

impl Permission {
    /// For a request that expects to be told: resolves when the app asks for
    /// the body of `request`, which is what is sent to it.
    pub(crate) fn for_request<B>(request: &mut http::Request<B>) -> Option<Self> {
        if !expects(request.headers()) {
            return None;
        }
        let (give, given) = oneshot::channel();
        let give = std::sync::Mutex::new(Some(give));
        hyper::ext::on_informational(request, move |answer| {
            if answer.status() == StatusCode::CONTINUE
                && let Ok(mut give) = give.lock()
                && let Some(give) = give.take()
            {
                let _ = give.send(());
            }
        });
        Some(Self {
            given: Some(given),
            patience: Box::pin(sleep(PATIENCE)),
        })
    }

    /// Ready when the caller may be asked.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(given) = &mut self.given {
            match Pin::new(given).poll(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(()),
                Poll::Ready(Err(_)) => self.given = None,
                Poll::Pending => {}
            }
        }
        self.patience.as_mut().poll(cx)
    }
}

fn expects(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
