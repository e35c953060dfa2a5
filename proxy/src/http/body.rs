//! Answers on their way: counted, cut when policies change, and free of trailers
//! that may not be there.
//!
//! Invariants: nothing is gathered: a piece goes on when the other side takes
//! it; a body that is cut ends with an error, never as if it were whole.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::record::Record;
use super::upload::{BodyError, counted};
use crate::refusal::Refusal;

/// Resolves when policies have changed so that the request would be denied.
pub(crate) type Cut = Pin<Box<dyn Future<Output = Refusal> + Send + Sync>>;

/// The body of what a caller is answered.
pub(crate) enum Answer {
    /// Our own words.
    Own(Option<Bytes>),
    /// The app's.
    Carried(Box<Download>),
}

/// A response's body, on its way to the caller.
pub(crate) struct Download {
    inner: Incoming,
    cut: Cut,
    received: Arc<AtomicU64>,
    /// Ends with the body.
    record: Option<Record>,
}

impl Answer {
    pub(crate) fn full(words: Bytes) -> Self {
        Self::Own(Some(words))
    }

    pub(crate) fn empty() -> Self {
        Self::Own(None)
    }

    /// Carries `inner` until `cut` resolves; then `record` ends.
    pub(crate) fn carried(inner: Incoming, cut: Cut, record: Record) -> Self {
        let received = record.received();
        let mut download = Download {
            inner,
            cut,
            received,
            record: Some(record),
        };
        if download.inner.is_end_stream() {
            download.finish();
        }
        Self::Carried(Box::new(download))
    }
}

impl Download {
    fn finish(&mut self) {
        if let Some(record) = self.record.take() {
            record.finished();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.record.is_some()
            && let Poll::Ready(refusal) = self.cut.as_mut().poll(cx)
        {
            if let Some(record) = self.record.take() {
                record.cut(&refusal);
            }
            return Poll::Ready(Some(Err("policies have changed".into())));
        }
        match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            None => {
                self.finish();
                Poll::Ready(None)
            }
            Some(Ok(frame)) => {
                let frame = counted(frame, &self.received);
                if self.inner.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                if let Some(record) = self.record.take() {
                    record.broken("app-reset", &error);
                }
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(words) => Poll::Ready(words.take().map(|words| Ok(Frame::data(words)))),
            Self::Carried(download) => download.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(words) => words.is_none(),
            Self::Carried(download) => download.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(words) => SizeHint::with_exact(words.as_ref().map_or(0, Bytes::len) as u64),
            Self::Carried(download) => download.inner.size_hint(),
        }
    }
}
