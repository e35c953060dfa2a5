//! Bytes of a connection that has no tunnel: both ways, to the end of both.
//!
//! Invariants: a side that is slow makes the other one wait; one that resets
//! is found within a second where nothing is read from it, and the other side
//! is reset, too.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::MissedTickBehavior;
use watchword_tunnel::AppStream;

use crate::ended::{Ended, Verdict};

const BUFFER: usize = 8 * 1024;
/// From one look at a side that is not read to the next.
const LOOK: Duration = Duration::from_secs(1);

/// `read` was read from the caller already. Dropped in between, it resets both
/// sides: neither may take a cut for the end of its data, nor our being killed.
pub(crate) async fn relay(
    (mut caller, read): (impl AppStream, Vec<u8>),
    mut called: impl AppStream,
    verdict: Verdict,
) -> Ended {
    match both_ways(&mut caller, read, &mut called).await {
        Ok((sent, received)) => Ended::finished(sent, received, verdict),
        Err(error) => Ended {
            verdict,
            ..Ended::failed("app-reset", error.to_string())
        },
    }
}

/// How much went there and back. Both are left to be closed in order, or, after
/// an error, to be reset by their drop.
pub(crate) async fn both_ways(
    caller: &mut impl AppStream,
    read: Vec<u8>,
    called: &mut impl AppStream,
) -> io::Result<(u64, u64)> {
    caller.guard(true);
    called.guard(true);
    let (mut there, mut back) = (Half::new(read), Half::new(Vec::new()));
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let result = poll_fn(|context| {
        let there_ended = there.poll(context, caller, called)?.is_ready();
        let back_ended = back.poll(context, called, caller)?.is_ready();
        if there_ended && back_ended {
            return Poll::Ready(Ok((there.carried, back.carried)));
        }
        if !(there.is_reading && back.is_reading) {
            while look.poll_tick(context).is_ready() {
                if let Some(error) = caller.failure().or_else(|| called.failure()) {
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Pending
    })
    .await;
    match &result {
        Ok(_) => {
            caller.guard(false);
            called.guard(false);
        }
        Err(_) => {
            caller.abort();
            called.abort();
        }
    }
    result
}

/// One direction.
struct Half {
    buffer: Vec<u8>,
    filled: usize,
    written: usize,
    carried: u64,
    is_reading: bool,
    is_unflushed: bool,
    source_ended: bool,
    is_over: bool,
}

impl Half {
    fn new(mut read: Vec<u8>) -> Self {
        let filled = read.len();
        read.resize(filled.max(BUFFER), 0);
        Self {
            buffer: read,
            filled,
            written: 0,
            carried: 0,
            is_reading: false,
            is_unflushed: false,
            source_ended: false,
            is_over: false,
        }
    }

    /// Ready when the end of the source was passed on.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        self.is_reading = false;
        while !self.is_over {
            if let Some(rest @ [_, ..]) = self.buffer.get(self.written..self.filled) {
                let count = ready!(Pin::new(&mut *to).poll_write(context, rest))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.written += count;
                self.carried += count as u64;
                self.is_unflushed = true;
            } else if self.source_ended {
                ready!(Pin::new(&mut *to).poll_shutdown(context))?;
                self.is_over = true;
            } else {
                let mut buffer = ReadBuf::new(&mut self.buffer);
                if Pin::new(&mut *from).poll_read(context, &mut buffer)?.is_pending() {
                    if self.is_unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(context))?;
                        self.is_unflushed = false;
                    }
                    self.is_reading = true;
                    return Poll::Pending;
                }
                self.filled = buffer.filled().len();
                self.written = 0;
                self.source_ended = self.filled == 0;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let made = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (made, listener.accept().await.unwrap().0)
    }

    /// The two outer ends of a relay.
    async fn relayed() -> (TcpStream, TcpStream, tokio::task::JoinHandle<io::Result<(u64, u64)>>) {
        let (caller, mut near) = pair().await;
        let (mut far, called) = pair().await;
        let task = tokio::spawn(async move { both_ways(&mut near, b"first ".to_vec(), &mut far).await });
        (caller, called, task)
    }

    #[tokio::test]
    async fn halves_end_one_by_one_and_every_byte_arrives() {
        let (mut caller, mut called, task) = relayed().await;
        caller.write_all(b"question").await.unwrap();
        caller.shutdown().await.unwrap();
        let mut question = Vec::new();
        called.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"first question");
        called.write_all(b"answer").await.unwrap();
        called.shutdown().await.unwrap();
        let mut answer = Vec::new();
        caller.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        assert_eq!(task.await.unwrap().unwrap(), (14, 6));
    }

    #[tokio::test]
    async fn a_reset_of_a_side_whose_half_has_ended_reaches_the_other() {
        let (mut caller, mut called, task) = relayed().await;
        caller.shutdown().await.unwrap();
        let mut question = Vec::new();
        called.read_to_end(&mut question).await.unwrap();
        caller.abort();
        drop(caller);
        assert!(task.await.unwrap().is_err());
        // Its half has ended in order already, so it learns by writing.
        let mut told = called.write_all(b"x").await;
        while told.is_ok() {
            tokio::task::yield_now().await;
            told = called.write_all(b"x").await;
        }
    }
}
