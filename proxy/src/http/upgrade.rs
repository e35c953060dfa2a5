//! A connection that a request made into another one (RFC 9110 section 7.8),
//! WebSocket's above all: bytes both ways, until an end or until policies deny
//! the request that it stands on.
//!
//! Invariant: neither side takes a cut for the end of its data.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use watchword_tunnel::AppStream;

use super::body::Cut;
use super::record::Record;
use super::upload::BodyError;

/// Carries on when both sides have been told, as a task of its own.
pub(crate) fn carry_on(caller: OnUpgrade, app: OnUpgrade, cut: Cut, record: Record) {
    tokio::spawn(async move {
        match tokio::try_join!(caller, app) {
            Ok((caller, app)) => carry(caller, app, cut, record).await,
            Err(error) => record.broken("upgrade", &error),
        }
    });
}

/// The connection of a request that asked for an upgrade. The library hands it
/// out when it is over, granted or not, and who drops it then breaks it, and
/// the last answer with it.
#[derive(Default)]
pub(crate) struct AskedToUpgrade(Mutex<Option<OnUpgrade>>);

impl AskedToUpgrade {
    /// The latest request counts.
    pub(crate) fn keep<B>(&self, request: &http::Request<B>) {
        if let Some(asked) = request.extensions().get::<OnUpgrade>() {
            *self.lock() = Some(asked.clone());
        }
    }

    /// It was granted: somebody else has the connection.
    pub(crate) fn forget(&self) {
        self.lock().take();
    }

    /// When the connection is over and nothing went wrong.
    pub(crate) async fn end_in_order(&self) {
        let asked = self.lock().take();
        let Some(mut asked) = asked else { return };
        // It is there by now, or will never be.
        let there = poll_fn(|cx| Poll::Ready(Pin::new(&mut asked).poll(cx))).await;
        if let Poll::Ready(Ok(connection)) = there {
            let _ = TokioIo::new(connection).shutdown().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<OnUpgrade>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn carry(caller: Upgraded, app: Upgraded, cut: Cut, record: Record) {
    let (sent, received) = (record.sent(), record.received());
    let carried = async {
        let app = app
            .downcast::<TokioIo<TcpStream>>()
            .map_err(|_| "no connection of ours")?;
        let (mut caller, early, mut app) = (TokioIo::new(caller), app.read_buf, app.io.into_inner());
        app.guard(true);
        caller.write_all(&early).await?;
        let (up, down) = copy_bidirectional(&mut caller, &mut app).await?;
        sent.fetch_add(up, Ordering::Relaxed);
        received.fetch_add(down + early.len() as u64, Ordering::Relaxed);
        app.guard(false);
        Ok::<(), BodyError>(())
    };
    tokio::select! {
        carried = carried => match carried {
            Ok(()) => record.finished(),
            Err(error) => record.broken("app-reset", error.as_ref()),
        },
        refusal = cut => record.cut(&refusal),
    }
}
