//! A request's body on its way to the app: counted, asked for in time, and free
//! of trailers that may not be there.
//!
//! Invariant: nothing is gathered: a piece goes on when the app takes it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::expect::Permission;
use super::headers::clean_trailers;

/// Why a body did not come to its end.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

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

/// Counts what is data, and cleans what are trailers.
pub(crate) fn counted(mut frame: Frame<Bytes>, count: &AtomicU64) -> Frame<Bytes> {
    if let Some(data) = frame.data_ref() {
        count.fetch_add(data.remaining() as u64, Ordering::Relaxed);
    }
    if let Some(trailers) = frame.trailers_mut() {
        clean_trailers(trailers);
    }
    frame
}
