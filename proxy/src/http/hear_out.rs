//! What a caller still sends when it has its answer. Dropped connections and
//! streams are resets, which overtake the answer, or make clients forget it: so
//! the rest is heard out (docs/decisions/0015-who-is-refused-is-heard-out.md).
//!
//! Invariants: nothing is kept; size and time are bounded.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

const MAX_BYTES: usize = 16 * 1024 * 1024;
const MAX_TIME: Duration = Duration::from_secs(5);
/// Read at once.
const PIECE: usize = 8 * 1024;

/// The rest of an HTTP/2 request, beside its answer. Not for gRPC, whose answer
/// may end its stream in one frame; and not for HTTP/1, where reading asks for
/// the body where the caller waits for that.
pub(crate) fn hear_out(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(timeout(MAX_TIME, async move {
        let mut left = MAX_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, bytes::Bytes::len);
            let Some(less) = left.checked_sub(length) else { return };
            left = less;
        }
    }));
}

/// The rest of an HTTP/1 connection, between our end and the caller's.
#[derive(Debug)]
pub(crate) struct Rest {
    left: usize,
    until: Pin<Box<Sleep>>,
}

impl Rest {
    pub(crate) fn new() -> Self {
        Self {
            left: MAX_BYTES,
            until: Box::pin(sleep_until(Instant::now() + MAX_TIME)),
        }
    }

    /// Ready when there is nothing more, or nothing more is heard.
    pub(crate) fn poll(&mut self, io: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<()> {
        let mut piece = [0; PIECE];
        loop {
            let mut buffer = ReadBuf::new(&mut piece);
            match Pin::new(&mut *io).poll_read(cx, &mut buffer) {
                Poll::Pending => return self.until.as_mut().poll(cx),
                Poll::Ready(read) => match (read, self.left.checked_sub(buffer.filled().len())) {
                    (Ok(()), Some(left)) if left < self.left => self.left = left,
                    _ => return Poll::Ready(()),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn hear(io: &mut (impl AsyncRead + Unpin)) {
        let mut rest = Rest::new();
        poll_fn(|cx| rest.poll(io, cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_is_heard_to_its_end_and_neither_for_ever_nor_without_bound() {
        let (mut ours, mut callers) = tokio::io::duplex(1024);
        let began = Instant::now();
        tokio::spawn(async move { callers.write_all(&[0; 100_000]).await });
        hear(&mut ours).await;
        assert_eq!(began.elapsed(), Duration::ZERO);

        let (mut ours, _silent) = tokio::io::duplex(1024);
        hear(&mut ours).await;
        assert_eq!(began.elapsed(), MAX_TIME);

        let (mut ours, mut callers) = tokio::io::duplex(PIECE);
        let endless = tokio::spawn(async move { while callers.write_all(&[0; PIECE]).await.is_ok() {} });
        hear(&mut ours).await;
        assert_eq!(began.elapsed(), MAX_TIME);
        drop(ours);
        endless.await.unwrap();
    }
}
