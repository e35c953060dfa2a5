//! The story of a connection whose requests are judged one by one: HTTP/1 or
//! HTTP/2 from a caller who has proved its identity, each request cleaned,
//! decided, sent to the app, and answered.
//!
//! Invariants: no request reaches the app that policies do not allow at that
//! moment, and none goes on that they deny later; what was judged is what is
//! sent. Must not know: how callers are authenticated, tunnels.

mod answer;
mod app;
pub(crate) mod app_pool;
mod body;
mod expect;
mod fault;
mod headers;
mod hear_out;
mod pipe;
mod record;
mod request;
mod reset_on_drop;
mod strict;
mod upgrade;
mod upload;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use watchword_policy::Protocol;

use self::answer::{denied, no_app, refused};
use self::app::{App, AppError};
use self::body::{Answer, Cut};
use self::expect::Permission;
use self::fault::{Fault, MARK};
use self::headers::{CLIENT_CERT, remove_hop_by_hop, remove_ours};
use self::hear_out::hear_out;
use self::record::Record;
use self::request::clean;
use self::strict::{MAX_HEAD, StrictIo, Upgraded};
use self::upgrade::{AskedToUpgrade, carry_on};
use self::upload::Upload;
use crate::enforce::Question;
use crate::facts::Facts;
use crate::refusal::Refusal;
use crate::visitor::Visitor;

pub(crate) use pipe::{News, pipe};
pub(crate) use reset_on_drop::ResetOnDrop;
pub(crate) use strict::{Framing, Spoken, read_spoken};

/// Bytes on the way to us per HTTP/2 connection and stream.
const H2_WINDOW: u32 = 1024 * 1024;
/// Requests under way at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;

/// A request ends without an answer: its connection, or in HTTP/2 its stream,
/// is reset.
#[derive(Debug, thiserror::Error)]
#[error("policies have changed, and deny what they allowed")]
struct WasCut;

/// Serves a caller's connection until both sides are done with it. When
/// `goodbye` resolves, the caller is asked to go elsewhere with its next
/// requests; when `stop` does, it is served to the end of those that are under
/// way. `app` was dialled already.
pub(crate) async fn serve<IO>(
    (visitor, protocol): (Arc<Visitor>, Protocol),
    io: IO,
    app: Option<TcpStream>,
    (goodbye, stop): (impl Future<Output = ()>, impl Future<Output = ()>),
) -> Result<(), hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut io = StrictIo::new(io);
    let Ok(spoken) = io.spoken().await else {
        return Ok(());
    };
    let requests = Arc::new(Requests {
        question: Question {
            visitor: Arc::clone(&visitor),
            protocol,
        },
        app: App::new(visitor, app),
        upgraded: io.upgraded(),
        asked_to_upgrade: AskedToUpgrade::default(),
        goodbye: AtomicBool::new(false),
    });
    // Each alone: the types of their connections differ.
    match spoken {
        Spoken::Http1 => serve_http1(io, requests, (goodbye, stop)).await,
        Spoken::Http2 => serve_http2(io, requests, (goodbye, stop)).await,
    }
}

async fn serve_http1<IO>(
    io: IO,
    requests: Arc<Requests>,
    (goodbye, stop): (impl Future<Output = ()>, impl Future<Output = ()>),
) -> Result<(), hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = Arc::clone(&requests);
    let service = service_fn(move |request| {
        let requests = Arc::clone(&served);
        async move { requests.serve(request).await }
    });
    let connection = http1::Builder::new()
        .half_close(true)
        .max_buf_size(MAX_HEAD)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    // To close an idle connection would cross the next request on its way:
    // rather the answer to that one says that it is the last.
    let stop = async {
        let mut stop = pin!(stop);
        tokio::select! {
            () = stop.as_mut() => return,
            () = goodbye => requests.goodbye.store(true, Ordering::Relaxed),
        }
        stop.await;
    };
    tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }?;
    requests.asked_to_upgrade.end_in_order().await;
    Ok(())
}

async fn serve_http2<IO>(
    io: IO,
    requests: Arc<Requests>,
    (goodbye, stop): (impl Future<Output = ()>, impl Future<Output = ()>),
) -> Result<(), hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let requests = Arc::clone(&requests);
        async move { requests.serve(request).await }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(H2_WINDOW)
        .initial_connection_window_size(H2_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = goodbye => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// The requests of one connection.
struct Requests {
    question: Question,
    app: App,
    upgraded: Upgraded,
    asked_to_upgrade: AskedToUpgrade,
    /// Answers say that they are the connection's last (RFC 9112 section 9.6).
    goodbye: AtomicBool,
}

impl Requests {
    /// One request, and whether its answer is the last.
    async fn serve(&self, request: Request<Incoming>) -> Result<Response<Answer>, WasCut> {
        let is_http1 = request.version() < Version::HTTP_2;
        let mut answer = self.answer(request).await?;
        let is_last = is_http1 && self.goodbye.load(Ordering::Relaxed);
        if is_last && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(answer)
    }

    /// From its head to the head of its answer.
    async fn answer(&self, mut request: Request<Incoming>) -> Result<Response<Answer>, WasCut> {
        let mut record = Record::begin(self.question.clone(), request.method().clone());
        if let Some(fault) = marked(&request) {
            return Ok(refuse(fault, "", record));
        }
        self.asked_to_upgrade.keep(&request);
        let caller = hyper::upgrade::on(&mut request);
        let (mut parts, body) = request.into_parts();
        let facts = match clean(&mut parts) {
            Ok(facts) => Arc::new(facts),
            Err(fault) => {
                if parts.version == Version::HTTP_2 {
                    hear_out(body);
                }
                return Ok(refuse(fault, parts.uri.path(), record));
            }
        };
        record.is_about(Arc::clone(&facts));
        let changes = self.visitor().mesh.snapshots.policy_changes();
        match self.question.decide(&facts) {
            Ok(decision) => record.allowed(&decision),
            Err(refusal) => {
                if parts.version == Version::HTTP_2 && !facts.is_grpc() {
                    hear_out(body);
                }
                return Ok(self.deny(&refusal, &facts, record));
            }
        }
        let mut cut: Cut = Box::pin(self.question.clone().request_denied_later(Arc::clone(&facts), changes));
        let upload = Upload::new(body, record.sent());
        let answered = tokio::select! {
            biased;
            refusal = &mut cut => Err(refusal),
            answered = self.send(parts, upload, (&facts, &record)) => Ok(answered),
        };
        match answered {
            Ok(Ok(response)) => Ok(self.pass_on(response, caller, cut, record)),
            Ok(Err(error)) => Ok(failed(&error, facts.is_grpc(), record)),
            Err(refusal) => {
                record.cut(&refusal);
                Err(WasCut)
            }
        }
    }

    fn visitor(&self) -> &Visitor {
        &self.question.visitor
    }

    fn deny(&self, refusal: &Refusal, facts: &Facts, record: Record) -> Response<Answer> {
        let answer = denied(refusal, self.visitor().is_of_our_domain(), facts.is_grpc());
        record.denied(refusal, answer.status());
        answer
    }

    /// To the app. Once more, where the app closed a connection that it had
    /// kept in the moment in which the request was on its way, and to do it
    /// twice does no harm (RFC 9110 section 9.2.2).
    async fn send(
        &self,
        parts: Parts,
        upload: Upload,
        (facts, record): (&Facts, &Record),
    ) -> Result<Response<Incoming>, AppError> {
        let may_repeat = upload.is_end_stream() && parts.method.is_idempotent();
        let version = parts.version;
        match self.app.send(self.prepared(parts, upload, record)).await {
            Err(AppError::Broken { kept: true, .. }) if may_repeat => {
                let (mut parts, ()) = Request::new(()).into_parts();
                parts.version = version;
                facts.restore(&mut parts);
                self.app.send(self.prepared(parts, Upload::empty(), record)).await
            }
            answered => answered,
        }
    }

    fn prepared(&self, mut parts: Parts, mut upload: Upload, record: &Record) -> Request<Upload> {
        record.pass_trace_on(&mut parts.headers);
        if let Some(caller) = self.visitor().client_cert() {
            parts.headers.insert(CLIENT_CERT, caller.clone());
        }
        let mut request = Request::from_parts(parts, ());
        upload.wait_for(Permission::for_request(&mut request));
        request.map(|()| upload)
    }

    /// The app's answer, to the caller.
    fn pass_on(
        &self,
        mut response: Response<Incoming>,
        caller: OnUpgrade,
        cut: Cut,
        mut record: Record,
    ) -> Response<Answer> {
        let app = hyper::upgrade::on(&mut response);
        let (mut parts, body) = response.into_parts();
        // The caller's version is the server's business.
        parts.version = Version::HTTP_11;
        remove_ours(&mut parts.headers);
        if let Err(fault) = remove_hop_by_hop(&mut parts.headers) {
            return broken_answer(fault, record);
        }
        record.answered(parts.status);
        let answer = if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            self.upgraded.set();
            self.asked_to_upgrade.forget();
            carry_on(caller, app, cut, record);
            Answer::empty()
        } else {
            Answer::carried(body, cut, record)
        };
        Response::from_parts(parts, answer)
    }
}

/// What the strict reader has found in place of a request.
fn marked(request: &Request<Incoming>) -> Option<Fault> {
    let label = request
        .headers()
        .get(MARK)
        .filter(|_| request.version() < Version::HTTP_2)?;
    Fault::from_mark(label.as_bytes())
}

fn refuse(fault: Fault, target: &str, record: Record) -> Response<Answer> {
    record.refused(fault, target);
    refused(fault)
}

fn failed(error: &AppError, grpc: bool, mut record: Record) -> Response<Answer> {
    let status = match error {
        AppError::Unreachable(_) => StatusCode::SERVICE_UNAVAILABLE,
        AppError::Broken { .. } => StatusCode::BAD_GATEWAY,
    };
    let answer = no_app(status, &error.to_string(), grpc);
    record.answered(answer.status());
    match error {
        AppError::Unreachable(_) => record.app_unreachable(error),
        AppError::Broken { .. } => record.broken("app-reset", error),
    }
    answer
}

fn broken_answer(fault: Fault, mut record: Record) -> Response<Answer> {
    let answer = no_app(StatusCode::BAD_GATEWAY, "the app's answer is malformed", false);
    record.answered(answer.status());
    record.broken("app-malformed", &std::io::Error::other(fault.sentence()));
    answer
}
