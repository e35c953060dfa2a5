//! The app, as one caller's connection sees it: dialled when it is needed,
//! kept while it keeps its connections, and spoken to as the caller speaks.
//!
//! Invariants: what the caller speaks is what the app hears: HTTP/1 is never
//! made HTTP/2 or the other way round, so nothing changes its meaning on the
//! way. A request is sent again only when the app can't have seen it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use thiserror::Error;
use tokio::net::TcpStream;
use watchword_tunnel::AppStream;

use super::H2_WINDOW;
use super::app_pool::Http1;
use super::upload::Upload;
use crate::dial::First;
use crate::visitor::Visitor;

type Http2 = http2::SendRequest<Upload>;

/// Why the app did not answer.
#[derive(Debug, Error)]
pub(crate) enum AppError {
    #[error("the app can't be reached: {0}")]
    Unreachable(io::Error),
    #[error("the app broke the connection off before it answered: {error}")]
    Broken {
        error: hyper::Error,
        /// On a connection that the app may have closed while the request was
        /// on its way.
        kept: bool,
    },
}

/// Connections to the app for one connection of a caller.
pub(crate) struct App {
    visitor: Arc<Visitor>,
    /// Dialled before the first request.
    first: Mutex<Option<TcpStream>>,
    /// Its last request is answered, or being so.
    http1: Mutex<Option<Http1>>,
    http2: tokio::sync::Mutex<Option<Http2>>,
}

impl App {
    pub(crate) fn new(visitor: Arc<Visitor>, first: Option<TcpStream>) -> Self {
        Self {
            visitor,
            first: Mutex::new(first),
            http1: Mutex::default(),
            http2: tokio::sync::Mutex::default(),
        }
    }

    /// Sends a request, and waits for the head of the answer.
    pub(crate) async fn send(&self, request: Request<Upload>) -> Result<Response<Incoming>, AppError> {
        if request.version() == Version::HTTP_2 {
            self.send_http2(request).await
        } else {
            self.send_http1(request).await
        }
    }

    /// One after the other: the caller's own connection is no different.
    async fn send_http1(&self, mut request: Request<Upload>) -> Result<Response<Incoming>, AppError> {
        // A caller of HTTP/1.0 is answered as such by the server, not by the app.
        *request.version_mut() = Version::HTTP_11;
        loop {
            let (mut sender, kept) = self.http1().await?;
            match sender.try_send_request(request).await {
                Ok(response) => {
                    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                        *lock(&self.http1) = Some(sender);
                    }
                    return Ok(response);
                }
                Err(refused) => request = unsent(refused, kept)?,
            }
        }
    }

    /// A connection that is ready, and whether it was used before.
    async fn http1(&self) -> Result<(Http1, bool), AppError> {
        let mut kept = lock(&self.http1).take();
        if kept.is_none() && lock(&self.first).is_none() {
            kept = self.visitor.mesh.app_pool.take(&self.visitor.app_key());
        }
        while let Some(mut sender) = kept {
            if sender.ready().await.is_ok() {
                return Ok((sender, true));
            }
            kept = self.visitor.mesh.app_pool.take(&self.visitor.app_key());
        }
        let stream = self.dial().await?;
        let (sender, connection) = http1::Builder::new()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| AppError::Broken { error, kept: false })?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to the app ended");
            }
        });
        Ok((sender, false))
    }

    async fn send_http2(&self, mut request: Request<Upload>) -> Result<Response<Incoming>, AppError> {
        loop {
            let (mut sender, kept) = self.http2().await?;
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(refused) => request = unsent(refused, kept)?,
            }
        }
    }

    /// All requests of a caller's connection share one to the app.
    async fn http2(&self) -> Result<(Http2, bool), AppError> {
        let mut held = self.http2.lock().await;
        if let Some(sender) = &*held {
            let mut sender = sender.clone();
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Ok((sender, true));
            }
        }
        let stream = self.dial().await?;
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(H2_WINDOW)
            .initial_connection_window_size(H2_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| AppError::Broken { error, kept: false })?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the app ended");
            }
        });
        sender
            .ready()
            .await
            .map_err(|error| AppError::Broken { error, kept: false })?;
        *held = Some(sender.clone());
        Ok((sender, false))
    }

    async fn dial(&self) -> Result<TcpStream, AppError> {
        if let Some(first) = lock(&self.first).take()
            && first.failure().is_none()
        {
            return Ok(first);
        }
        let Visitor {
            mesh, dialled, from, ..
        } = &*self.visitor;
        let dialled = if self.visitor.is_itself {
            mesh.dialler.connect_self(*dialled).await
        } else {
            mesh.dialler.connect_app(*dialled, from.ip(), First::Us).await
        };
        dialled.map_err(AppError::Unreachable)
    }
}

impl Drop for App {
    /// The caller's connection is over, the app's may be good for another one.
    fn drop(&mut self) {
        let kept = lock(&self.http1).take();
        if let Some(sender) = kept.filter(Http1::is_ready)
            && tokio::runtime::Handle::try_current().is_ok()
        {
            self.visitor.mesh.app_pool.put(self.visitor.app_key(), sender);
        }
    }
}

/// The request, where the app had closed a kept connection before it was sent.
fn unsent(mut refused: TrySendError<Request<Upload>>, kept: bool) -> Result<Request<Upload>, AppError> {
    match refused.take_message() {
        Some(unsent) if kept => Ok(unsent),
        _ => Err(AppError::Broken {
            error: refused.into_error(),
            kept,
        }),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
