//! A caller's bytes on their way to the HTTP library: HTTP/1 requests pass
//! when they have one reading only, and what does not is replaced by a request
//! that the service knows and answers, in its turn.
//!
//! Invariants: behind a fault nothing passes any more; bytes are not looked at
//! when HTTP/2 is spoken or once a connection was upgraded. Must not know:
//! policies, apps.

mod framing;
mod head;
mod lines;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

pub(crate) use self::framing::Framing;
use super::fault::{Fault, MARK};
use super::hear_out::Rest;

pub(super) use self::head::MAX_HEAD;

/// What an HTTP/2 client says first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// For a head, or the preface, to be whole once its first byte is there.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);
/// Read at once: of heads, and of chunked bodies.
const HEAD_PIECE: usize = 2 * 1024;
const BODY_PIECE: usize = 16 * 1024;

/// What a caller speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    Http2,
}

/// Looks at a connection's first bytes, which stand in `raw` afterwards: those
/// of the preface at least, where it comes. A port's protocol is declared; this
/// only tells its versions apart. Waits for the first byte as long as the
/// caller does.
///
/// # Errors
/// When the connection fails before its first byte, or those that look like
/// HTTP/2's don't go on.
pub(crate) async fn read_spoken<IO: AsyncRead + Unpin>(io: &mut IO, raw: &mut BytesMut) -> io::Result<Spoken> {
    if io.read_buf(raw).await? == 0 {
        return Ok(Spoken::Http1);
    }
    let rest = async {
        while raw.len() < PREFACE.len() && PREFACE.starts_with(raw) {
            if io.read_buf(raw).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    timeout(HEAD_DEADLINE, rest)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(if raw.starts_with(PREFACE) {
        Spoken::Http2
    } else {
        Spoken::Http1
    })
}

/// Lets the reader know that the connection was upgraded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upgraded(Arc<AtomicBool>);

impl Upgraded {
    /// What comes from now on is no HTTP.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A caller's connection.
#[derive(Debug)]
pub(crate) struct StrictIo<IO> {
    io: IO,
    raw: BytesMut,
    /// So many bytes of `raw` may be read.
    passed: usize,
    framing: Framing,
    faulty: bool,
    upgraded: Upgraded,
    head_by: Option<Pin<Box<Sleep>>>,
    /// The caller's end has come.
    ended: bool,
    /// What comes behind our end.
    rest: Option<Rest>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> StrictIo<IO> {
    pub(crate) fn new(io: IO) -> Self {
        Self {
            io,
            raw: BytesMut::new(),
            passed: 0,
            framing: Framing::default(),
            faulty: false,
            upgraded: Upgraded::default(),
            head_by: None,
            ended: false,
            rest: None,
        }
    }

    /// To be set when a request has upgraded the connection.
    pub(crate) fn upgraded(&self) -> Upgraded {
        self.upgraded.clone()
    }

    /// See [`read_spoken`].
    pub(crate) async fn spoken(&mut self) -> io::Result<Spoken> {
        let spoken = read_spoken(&mut self.io, &mut self.raw).await?;
        if spoken == Spoken::Http2 {
            self.upgraded.set();
        }
        Ok(spoken)
    }

    /// Lets pass what may. True when something can be read.
    fn judge(&mut self) -> bool {
        if self.upgraded.is_set() && !self.faulty {
            self.passed = self.raw.len();
        } else if self.passed == 0 && !self.faulty && !self.raw.is_empty() {
            match self.framing.judge(&self.raw) {
                Ok(passed) => self.passed = passed,
                Err(fault) => self.refuse(fault),
            }
        }
        self.passed > 0
    }

    /// The rest of the connection is one request that says what is wrong. Where
    /// that comes in the middle of a body, the library breaks the connection.
    fn refuse(&mut self, fault: Fault) {
        self.faulty = true;
        self.head_by = None;
        self.raw.clear();
        self.raw.extend_from_slice(b"GET / HTTP/1.1\r\nconnection: close\r\n");
        self.raw.extend_from_slice(MARK.as_bytes());
        self.raw.extend_from_slice(b": ");
        self.raw.extend_from_slice(fault.label().as_bytes());
        self.raw.extend_from_slice(b"\r\n\r\n");
        self.passed = self.raw.len();
    }

    fn take(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.passed.min(buffer.remaining());
        buffer.put_slice(self.raw.get(..count).unwrap_or_default());
        self.raw.advance(count);
        self.passed -= count;
    }

    /// The body of a known length goes right to the reader.
    fn poll_read_sized(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Option<Poll<io::Result<()>>> {
        let left = self
            .framing
            .sized()
            .filter(|_| self.raw.is_empty() && !self.upgraded.is_set())?;
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.remaining());
        let mut body = ReadBuf::new(buffer.initialize_unfilled_to(room));
        let read = Pin::new(&mut self.io).poll_read(cx, &mut body);
        let count = body.filled().len();
        buffer.advance(count);
        self.framing.passed_unseen(count);
        Some(read)
    }

    /// Reads more to be judged. Ready with false at the end.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let piece = if self.framing.is_in_head() && !self.upgraded.is_set() {
            HEAD_PIECE
        } else {
            BODY_PIECE
        };
        self.raw.reserve(piece);
        let read = std::pin::pin!(self.io.read_buf(&mut self.raw)).poll(cx);
        match read {
            Poll::Ready(count) => Poll::Ready(count.map(|count| count > 0)),
            Poll::Pending => {
                if self.raw.is_empty() && self.raw.capacity() > HEAD_PIECE {
                    self.raw = BytesMut::new();
                }
                self.poll_deadline(cx)
            }
        }
    }

    /// A head that was begun has to come.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.raw.is_empty() || !self.framing.is_in_head() || self.upgraded.is_set() {
            self.head_by = None;
            return Poll::Pending;
        }
        let head_by = self
            .head_by
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + HEAD_DEADLINE)));
        ready!(head_by.as_mut().poll(cx));
        self.refuse(Fault::SlowHead);
        Poll::Ready(Ok(true))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for StrictIo<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.judge() {
                this.head_by = None;
                this.take(buffer);
                return Poll::Ready(Ok(()));
            }
            if this.faulty {
                // The answer is on its way; nothing else is heard.
                return Poll::Ready(Ok(()));
            }
            if let Some(read) = this.poll_read_sized(cx, buffer) {
                return read;
            }
            if !ready!(this.poll_more(cx))? {
                this.ended = true;
                return Poll::Ready(this.end());
            }
        }
    }
}

impl<IO> StrictIo<IO> {
    /// An end within a request is none.
    fn end(&self) -> io::Result<()> {
        if self.upgraded.is_set() || (self.raw.is_empty() && self.framing.is_between_requests()) {
            return Ok(());
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for StrictIo<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    /// To its end: who still sends would be reset otherwise, and the reset
    /// would overtake the answer.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rest.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        }
        if !this.ended && !this.upgraded.is_set() {
            ready!(this.rest.get_or_insert_with(Rest::new).poll(&mut this.io, cx));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
