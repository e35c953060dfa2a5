//! An app's HTTP/1 connection to a foreign peer, over one connection after the
//! other: the next one is made when certificates come to their end and the app
//! begins another request, which is when nothing is under way. The app notices
//! nothing.
//!
//! A client that does not wait for answers (pipelining) keeps the connection
//! that it has, and so does one that asks to upgrade.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use watchword_identity::Usage;
use watchword_mtls::ForeignProtocol;
use watchword_tunnel::AppStream;

use super::calling::{Called, Calling};
use crate::ended::{Ended, Verdict};
use crate::http::Framing;
use crate::refusal::Why;

/// Read at once.
const PIECE: usize = 16 * 1024;
/// For a peer that is left to hear of it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Carries the connection to its end; `read` was read from the app already.
pub(super) async fn carry(calling: &mut Calling<'_>, mut app: TcpStream, read: BytesMut) -> Ended {
    let mut requests = Requests::new(read);
    let mut carried = Carried::default();
    loop {
        let called = match calling.connect(ForeignProtocol::Http1).await {
            Ok(called) => called,
            Err(ended) => {
                app.abort();
                return ended;
            }
        };
        match one(&mut app, called, &mut requests, &mut carried).await {
            Turn::Next => {}
            Turn::Over(ended) => return ended,
        }
    }
}

/// Bytes of the whole connection.
#[derive(Default)]
struct Carried {
    sent: u64,
    received: u64,
}

enum Turn {
    /// Another connection is to carry the next request.
    Next,
    Over(Ended),
}

/// What one connection carries.
async fn one(app: &mut TcpStream, called: Called, requests: &mut Requests, carried: &mut Carried) -> Turn {
    let Called {
        mut stream,
        end,
        _counted,
    } = called;
    stream.guard(true);
    let (mut from_app, mut to_app) = app.split();
    let (mut from_called, mut to_called) = tokio::io::split(stream);
    // Nothing was asked of this one yet.
    let answered = AtomicBool::new(true);
    let (mut has_sent, mut has_received) = (false, false);
    let turn = {
        let Carried { sent, received } = carried;
        let mut sending = pin!(requests.send((&mut from_app, &mut to_called), (&answered, end.goodbye()), sent));
        let mut receiving = pin!(receive(&mut from_called, &mut to_app, &answered, received));
        let mut over = pin!(end.over(Usage::Server));
        loop {
            tokio::select! {
                ended = sending.as_mut(), if !has_sent => match ended {
                    Ok(Sent::All) => has_sent = true,
                    Ok(Sent::UntilNext) => break Ok(Turn::Next),
                    Err(error) => break Err(error),
                },
                ended = receiving.as_mut(), if !has_received => match ended {
                    Ok(()) => has_received = true,
                    Err(error) => break Err(error),
                },
                reason = over.as_mut() => break Ok(Turn::Over(Ended::failed("cut", Why::label_of(reason)))),
            }
            if has_sent && has_received {
                break Ok(Turn::Over(Ended::finished(0, 0, Verdict::none())));
            }
        }
    };
    let mut stream = from_called.unsplit(to_called);
    match turn {
        Ok(Turn::Next) => {
            stream.guard(false);
            tokio::spawn(async move { timeout(FAREWELL, stream.shutdown()).await });
            Turn::Next
        }
        Ok(Turn::Over(ended)) if ended.result == "ok" => {
            stream.guard(false);
            app.guard(false);
            Turn::Over(Ended::finished(carried.sent, carried.received, Verdict::none()))
        }
        Ok(Turn::Over(cut)) => Turn::Over(cut),
        Err(error) => Turn::Over(Ended::failed("app-reset", error.to_string())),
    }
}

async fn receive(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    answered: &AtomicBool,
    received: &mut u64,
) -> io::Result<()> {
    let mut bytes = vec![0; PIECE];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        answered.store(true, Ordering::Relaxed);
        to.write_all(bytes.get(..count).unwrap_or_default()).await?;
        *received += count as u64;
    }
}

enum Sent {
    /// The app has ended its half.
    All,
    /// A request has begun, and is for another connection.
    UntilNext,
}

/// What the app sends, in which requests are told apart.
struct Requests {
    /// Nothing where they can't be, or not any more.
    framing: Option<Framing>,
    raw: BytesMut,
    /// So many bytes of `raw` were looked at, and begin a request.
    begun: usize,
}

impl Requests {
    fn new(raw: BytesMut) -> Self {
        Self {
            framing: Some(Framing::default()),
            raw,
            begun: 0,
        }
    }

    /// Until the app's half ends; once `goodbye` has come, until the app
    /// begins the next request.
    async fn send<R, W>(
        &mut self,
        (from, to): (&mut R, &mut W),
        (answered, goodbye): (&AtomicBool, impl Future<Output = ()>),
        sent: &mut u64,
    ) -> io::Result<Sent>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut goodbye = pin!(goodbye);
        let mut leaves = false;
        loop {
            while let Some((count, begins)) = self.next_part() {
                if begins && !answered.swap(false, Ordering::Relaxed) {
                    self.framing = None;
                } else if begins && leaves && self.framing.is_some() {
                    self.begun = count;
                    return Ok(Sent::UntilNext);
                }
                let part = self.raw.get(..count).unwrap_or_default();
                if begins && asks_to_upgrade(part) {
                    self.framing = None;
                }
                to.write_all(part).await?;
                *sent += count as u64;
                self.raw.advance(count);
            }
            to.flush().await?;
            tokio::select! {
                count = from.read_buf(&mut self.raw) => if count? == 0 {
                    to.write_all(&self.raw).await?;
                    to.shutdown().await?;
                    return Ok(Sent::All);
                },
                () = goodbye.as_mut(), if !leaves => leaves = true,
            }
        }
    }

    /// How many bytes may go, and whether they begin a request.
    fn next_part(&mut self) -> Option<(usize, bool)> {
        if self.begun > 0 {
            return Some((std::mem::take(&mut self.begun), true));
        }
        if self.raw.is_empty() {
            return None;
        }
        let Some(framing) = &mut self.framing else {
            return Some((self.raw.len(), false));
        };
        let in_head = framing.is_in_head();
        match framing.judge(&self.raw) {
            Ok(0) => None,
            Ok(count) => Some((count, in_head)),
            // What is wrong with it, the peer will say.
            Err(_) => {
                self.framing = None;
                Some((self.raw.len(), false))
            }
        }
    }
}

fn asks_to_upgrade(head: &[u8]) -> bool {
    let mut lines = head.split(|byte| *byte == b'\n');
    lines.any(|line| line.get(..8).is_some_and(|name| name.eq_ignore_ascii_case(b"upgrade:")))
}

#[cfg(test)]
#[path = "http1_tests.rs"]
mod tests;
