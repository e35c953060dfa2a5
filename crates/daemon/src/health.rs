//! Small pages over HTTP/1.1, for probes, scrapes and people. GET only.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use crate::{Metrics, Readiness, Trouble};

/// More connections than this wait in the listener's queue.
const MAX_CONNECTIONS: usize = 64;
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// A probe that takes longer than this is cut.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(30);

/// What a path answers.
#[derive(Debug, Clone)]
pub struct Page {
    /// 200, or 503 with the reason as its text.
    pub status: StatusCode,
    /// As in Content-Type.
    pub content_type: &'static str,
    /// UTF-8.
    pub body: String,
}

impl Page {
    /// Text.
    pub fn text(body: impl Into<String>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    /// JSON that is written already.
    pub fn json(body: impl Into<String>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "application/json",
            body: body.into(),
        }
    }

    /// With another status.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

type Render = Box<dyn Fn() -> Page + Send + Sync>;

/// Which path shows what.
#[derive(Default)]
pub struct Pages {
    by_path: BTreeMap<&'static str, Render>,
}

impl Pages {
    /// `/livez`, `/readyz` and `/metrics`.
    pub fn of_daemon(readiness: Readiness, metrics: Metrics) -> Self {
        Self::default()
            .with("/livez", || Page::text("ok\n"))
            .with("/readyz", move || ready(&readiness))
            .with("/metrics", move || match metrics.render() {
                Ok(text) => Page {
                    status: StatusCode::OK,
                    content_type: "text/plain; version=0.0.4",
                    body: text,
                },
                Err(error) => Page::text(format!("{error}\n")).with_status(StatusCode::INTERNAL_SERVER_ERROR),
            })
    }

    /// One more.
    pub fn with(mut self, path: &'static str, render: impl Fn() -> Page + Send + Sync + 'static) -> Self {
        self.by_path.insert(path, Box::new(render));
        self
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return response(Page::text("only GET\n").with_status(StatusCode::METHOD_NOT_ALLOWED));
        }
        match self.by_path.get(request.uri().path()) {
            Some(render) => response(render()),
            None => {
                let paths: Vec<_> = self.by_path.keys().copied().collect();
                let text = format!("no such page; there are {}\n", paths.join(", "));
                response(Page::text(text).with_status(StatusCode::NOT_FOUND))
            }
        }
    }
}

fn ready(readiness: &Readiness) -> Page {
    let reasons = readiness.reasons();
    if reasons.is_empty() {
        return Page::text("ok\n");
    }
    let lines: Vec<_> = reasons
        .iter()
        .map(|(part, reason)| format!("{part}: {reason}\n"))
        .collect();
    Page::text(lines.concat()).with_status(StatusCode::SERVICE_UNAVAILABLE)
}

fn response(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() = page.status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    response
}

/// Serves the pages to whoever `accept` brings, for ever. Each connection has
/// a deadline and answers one request at a time.
pub async fn serve_pages<IO, F>(pages: Arc<Pages>, mut accept: impl FnMut() -> F)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Future<Output = std::io::Result<IO>>,
{
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut trouble = Trouble::default();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let io = match accept().await {
            Ok(io) => io,
            Err(error) => {
                if let Some(times) = trouble.note() {
                    tracing::warn!(%error, times, "a connection for the health pages can't be accepted");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            let _slot = slot;
            let service = service_fn(move |request| {
                let answer = pages.answer(&request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_DEADLINE)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(io), service);
            // A broken or slow caller is its own problem.
            let _ = tokio::time::timeout(CONNECTION_DEADLINE, connection).await;
        });
    }
}
