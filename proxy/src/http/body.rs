//! Bodies on their way: counted, cut when policies change, and free of trailers
//! that may not be there.
//!
//! Invariants: nothing is gathered: a piece goes on when the other side takes
//! it; a body that is cut ends with an error, never as if it were whole.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::expect::Permission;
use super::headers::clean_trailers;
use super::record::Record;
use crate::refusal::Refusal;

/// Why a body did not come to its end.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Resolves when policies have changed so that the request would be denied.
pub(crate) type Cut = Pin<Box<dyn Future<Output = Refusal> + Send + Sync>>;

/// A request's body, on its way to the app.
pub(crate) struct Upload {
    inner: Option<Incoming>,
    /// Nothing is asked of the caller before the app wants it.
    permission: Option<Permission>,
    sent: Arc<AtomicU64>,
}

impl Upload {
    pub(crate) fn new(inner: Incoming, sent: Arc<AtomicU64>) -> Self {
        Self {
            inner: Some(inner),
            permission: None,
            sent,
        }
    }

    pub(crate) fn empty() -> Self {
        Self {
            inner: None,
            permission: None,
            sent: Arc::default(),
        }
    }

    /// Reads nothing of the caller before that.
    pub(crate) fn wait_for(&mut self, permission: Option<Permission>) {
        self.permission = permission;
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        if let Some(permission) = &mut this.permission {
            ready!(permission.poll(cx));
            this.permission = None;
        }
        let frame = ready!(Pin::new(inner).poll_frame(cx));
        Poll::Ready(frame.map(|frame| Ok(counted(frame?, &this.sent))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let exact = || SizeHint::with_exact(0);
        self.inner.as_ref().map_or_else(exact, Body::size_hint)
    }
}

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

fn counted(mut frame: Frame<Bytes>, count: &AtomicU64) -> Frame<Bytes> {
    if let Some(data) = frame.data_ref() {
        count.fetch_add(data.remaining() as u64, Ordering::Relaxed);
    }
    if let Some(trailers) = frame.trailers_mut() {
        clean_trailers(trailers);
    }
    frame
}
