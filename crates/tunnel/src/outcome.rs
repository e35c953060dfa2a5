//! How a stream ended, and what is still owed to its app.
//!
//! Invariants: an END counts when it is decoded, so a tunnel is free while a
//! slow app still takes the last bytes: they leave with the app's connection.
//! Must not know: frames, transports.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use watchword_proto::tunnel::Reason;

use crate::edge::{AppStream, Leg, Released};
use crate::error::CloseReason;

/// The record of a stream that has ended.
#[derive(Debug)]
#[must_use = "what is owed to the app must be delivered"]
pub struct Closed<A: AppStream> {
    /// Why.
    pub why: CloseReason,
    /// Bytes from the app into the tunnel.
    pub sent: u64,
    /// Bytes from the tunnel to the app, those that are owed left out.
    pub received: u64,
    /// Bytes that the app has not taken yet, after both sides have ended the
    /// stream.
    pub owed: Option<Owed<A>>,
    /// The app's connection, where it has ended and nothing is owed.
    pub released: Option<Released<A>>,
}

impl<A: AppStream> Closed<A> {
    /// Delivers what is owed, then ends the app's connection; `cut` as for the
    /// stream. Afterwards the record is final. It waits as long as the app
    /// does: the tunnel belongs to others by now.
    pub async fn settle(&mut self, cut: impl Future<Output = Reason>) {
        let Some(mut owed) = self.owed.take() else {
            return;
        };
        let length = owed.length();
        let why = owed.deliver(cut).await;
        self.received += (length - owed.length()) as u64;
        match why {
            CloseReason::Finished => self.released = owed.leg.release(),
            why => self.why = why,
        }
    }
}

/// An app's connection with the bytes that it has yet to take. Dropped, it is
/// reset.
#[derive(Debug)]
pub struct Owed<A: AppStream> {
    pub(crate) leg: Leg<A>,
    pub(crate) backlog: Backlog,
}

impl<A: AppStream> Owed<A> {
    /// How many bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.backlog.bytes().len()
    }

    async fn deliver(&mut self, cut: impl Future<Output = Reason>) -> CloseReason {
        let mut cut = pin!(cut);
        poll_fn(|cx| {
            if let Poll::Ready(reason) = cut.as_mut().poll(cx) {
                return Poll::Ready(CloseReason::Cut(reason));
            }
            self.poll_deliver(cx)
        })
        .await
    }

    fn poll_deliver(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let Some(app) = self.leg.app() else {
            return Poll::Ready(CloseReason::AppReset);
        };
        while !self.backlog.is_empty() {
            match ready!(Pin::new(&mut *app).poll_write(cx, self.backlog.bytes())) {
                Ok(count) if count > 0 => self.backlog.consume(count),
                _ => return Poll::Ready(CloseReason::AppReset),
            }
        }
        Poll::Ready(match ready!(Pin::new(app).poll_shutdown(cx)) {
            Ok(()) => CloseReason::Finished,
            Err(_) => CloseReason::AppReset,
        })
    }
}

/// Bytes for the app that had to leave the read buffer.
#[derive(Default)]
pub(crate) struct Backlog {
    memory: Vec<u8>,
    taken: usize,
}

impl Backlog {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.memory.extend_from_slice(bytes);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.get(self.taken..).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.taken == self.memory.len()
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.taken = (self.taken + count).min(self.memory.len());
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

/// What the bytes are is nobody's business.
impl fmt::Debug for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Backlog({} bytes)", self.bytes().len())
    }
}
