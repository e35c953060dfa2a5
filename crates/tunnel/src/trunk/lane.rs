//! A lane: to the tunnel on it, a connection like any other.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::shared::{Kind, MAX_PAYLOAD, OUTPUT_LIMIT, Over, Shared, lock};
use crate::edge::Transport;

/// One lane of a trunk. Dropped, it is closed, or over by force where it was
/// aborted or has something unread, as a socket would be.
pub struct Lane<T: Transport> {
    shared: Arc<Mutex<Shared<T>>>,
    number: u32,
    /// Where what was written on it ends in the trunk's bytes.
    queued_to: u64,
    is_aborted: bool,
    /// See [`Transport::has_given_all`].
    has_given_all: bool,
}

impl<T: Transport> Lane<T> {
    pub(super) fn new(shared: Arc<Mutex<Shared<T>>>, number: u32) -> Self {
        Self {
            shared,
            number,
            queued_to: 0,
            is_aborted: false,
            has_given_all: false,
        }
    }

    fn failure_in(&self, shared: &Shared<T>) -> Option<io::Error> {
        let is_aborted = shared.lanes.get(&self.number).is_none_or(|state| state.is_aborted);
        match shared.over {
            Some(Over::Failed(kind)) => Some(kind.into()),
            _ if is_aborted => Some(io::ErrorKind::ConnectionReset.into()),
            _ => None,
        }
    }
}

impl<T: Transport> AsyncRead for Lane<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.has_given_all = false;
        let mut guard = lock(&this.shared);
        let shared = &mut *guard;
        if let Some(state) = shared.lanes.get_mut(&this.number)
            && !state.inbox.is_empty()
        {
            let count = state.inbox.len().min(buffer.remaining());
            buffer.put_slice(state.inbox.bytes().get(..count).unwrap_or_default());
            state.inbox.consume(count);
            state.inbox.rest();
            state.ungranted += count;
            this.has_given_all =
                state.inbox.is_empty() && !state.is_ended && !state.is_aborted && shared.over.is_none();
            if this.has_given_all {
                state.reader = Some(cx.waker().clone());
            }
            if state.ungranted >= state.window / 2 {
                shared.due.push(this.number);
                shared.wake_driver();
            }
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = this.failure_in(shared) {
            return Poll::Ready(Err(error));
        }
        match shared.lanes.get_mut(&this.number) {
            Some(state) if !state.is_ended && shared.over.is_none() => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl<T: Transport> AsyncWrite for Lane<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut guard = lock(&this.shared);
        let shared = &mut *guard;
        if let Some(error) = this.failure_in(shared) {
            return Poll::Ready(Err(error));
        }
        if let Some(kind) = shared.write_failure {
            return Poll::Ready(Err(kind.into()));
        }
        let room = OUTPUT_LIMIT.saturating_sub(shared.output.len());
        let Some(state) = shared.lanes.get_mut(&this.number) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if state.is_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(state.credit).min(room);
        if count == 0 {
            state.writer = Some(cx.waker().clone());
            if room == 0 && !std::mem::replace(&mut state.is_blocked, true) {
                shared.blocked.push(this.number);
            }
            return Poll::Pending;
        }
        state.credit -= count;
        shared.speaking.note(&mut state.spoke);
        for piece in bytes.get(..count).unwrap_or_default().chunks(MAX_PAYLOAD) {
            shared.say(Kind::Data, this.number, piece);
        }
        this.queued_to = shared.queued;
        shared.note_said();
        Poll::Ready(Ok(count))
    }

    /// What was written goes with what others write at this moment.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.shared).close(self.number);
        Poll::Ready(Ok(()))
    }
}

impl<T: Transport> Transport for Lane<T> {
    fn has_given_all(&self) -> bool {
        self.has_given_all
    }

    /// What waits for the driver's turn does not count: it leaves at once.
    fn has_unsent(&self) -> bool {
        let shared = lock(&self.shared);
        shared.is_stuck && self.queued_to > shared.flushed
    }

    fn abort(&mut self) {
        self.is_aborted = true;
    }

    fn failure(&self) -> Option<io::Error> {
        self.failure_in(&lock(&self.shared))
    }

    fn limit_silence(&self, limit: Option<Duration>) {
        lock(&self.shared).be_impatient(self.number, limit.is_some());
    }
}

impl<T: Transport> Drop for Lane<T> {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.leave(self.number, self.is_aborted);
    }
}

impl<T: Transport> std::fmt::Debug for Lane<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
