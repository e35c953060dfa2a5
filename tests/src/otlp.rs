//! A collector that keeps the spans it gets: OTLP by gRPC on a Unix socket, as
//! the OpenTelemetry collector's receiver has it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{Span as Received, status::StatusCode};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::output::DEADLINE;

/// A span that came, with IDs in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceivedSpan {
    /// 32 digits.
    pub trace_id: String,
    /// 16 digits.
    pub span_id: String,
    /// Empty where the trace begins with it.
    pub parent_span_id: String,
    /// As W3C has it.
    pub trace_state: String,
    /// Such as `GET`.
    pub name: String,
    /// 2 is a server's.
    pub kind: i32,
    /// Its own, as text.
    pub attributes: BTreeMap<String, String>,
    /// Of who sent it, such as `service.name`.
    pub resource: BTreeMap<String, String>,
    /// Whether it failed.
    pub failed: bool,
    /// From its begin to its end.
    pub nanoseconds: u64,
}

impl ReceivedSpan {
    /// An attribute, or nothing.
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// A collector on a Unix socket that every user may connect to. Dropped, it
/// ends with all its connections, and the socket's file is gone.
///
/// ```no_run
/// # fn main() -> anyhow::Result<()> {
/// let folder = tempfile::tempdir()?;
/// let collector = watchword_tests::Collector::start(&folder.path().join("otel.sock"))?;
/// // A mesh file with `tracing: {address: "unix:otel.sock", sampleRatio: 1}` …
/// let span = collector.wait_for("a denied call", |span| span.attribute("watchword.decision") == "deny")?;
/// assert_eq!(span.attribute("http.response.status_code"), "403");
/// # Ok(())
/// # }
/// ```
pub struct Collector {
    spans: Arc<Spans>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    socket: std::path::PathBuf,
}

#[derive(Default)]
struct Spans {
    got: Mutex<Vec<ReceivedSpan>>,
    more: Condvar,
}

impl Collector {
    /// Listens when this returns.
    ///
    /// # Errors
    /// When it can't listen there.
    pub fn start(socket: &Path) -> Result<Self> {
        let listener = std::os::unix::net::UnixListener::bind(socket).with_context(|| socket.display().to_string())?;
        listener.set_nonblocking(true)?;
        // Sidecars have a user of their own.
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let spans = Arc::<Spans>::default();
        let (stop, stopped) = oneshot::channel();
        let kept = Arc::clone(&spans);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = serve(listener, kept) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self {
            spans,
            stop: Some(stop),
            thread: Some(thread),
            socket: socket.to_owned(),
        })
    }

    /// All spans so far, in the order of their arrival.
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        self.spans.lock().clone()
    }

    /// Waits for a span that `wanted` accepts, those so far among them.
    ///
    /// # Errors
    /// With everything so far, when none comes within [`DEADLINE`].
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&ReceivedSpan) -> bool) -> Result<ReceivedSpan> {
        self.wait_until(what, |spans| spans.iter().find(|span| wanted(span)).cloned())
    }

    /// Waits until there are so many spans.
    ///
    /// # Errors
    /// With everything so far, when there are not within [`DEADLINE`].
    pub fn wait_for_number(&self, count: usize) -> Result<()> {
        self.wait_until(&format!("{count} spans"), |spans| (spans.len() >= count).then_some(()))
    }

    fn wait_until<T>(&self, what: &str, found: impl Fn(&[ReceivedSpan]) -> Option<T>) -> Result<T> {
        let until = Instant::now() + DEADLINE;
        let mut got = self.spans.lock();
        loop {
            if let Some(found) = found(&got) {
                return Ok(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("waited in vain for {what}; so far: {got:#?}");
            }
            let waited = self.spans.more.wait_timeout(got, left);
            got = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Spans {
    fn lock(&self) -> MutexGuard<'_, Vec<ReceivedSpan>> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(listener: std::os::unix::net::UnixListener, spans: Arc<Spans>) -> Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let (accepted, incoming) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if accepted.send(Ok::<_, std::io::Error>(stream)).await.is_err() {
                return;
            }
        }
    });
    Server::builder()
        .add_service(TraceServiceServer::new(Keep(spans)))
        .serve_with_incoming(ReceiverStream::new(incoming))
        .await?;
    Ok(())
}

struct Keep(Arc<Spans>);

#[tonic::async_trait]
impl TraceService for Keep {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut got = self.0.lock();
        for of_sender in request.into_inner().resource_spans {
            let resource = texts(of_sender.resource.unwrap_or_default().attributes);
            let spans = of_sender.scope_spans.into_iter().flat_map(|scope| scope.spans);
            got.extend(spans.map(|span| received(span, &resource)));
        }
        drop(got);
        self.0.more.notify_all();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn received(span: Received, resource: &BTreeMap<String, String>) -> ReceivedSpan {
    ReceivedSpan {
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_span_id: hex(&span.parent_span_id),
        trace_state: span.trace_state,
        name: span.name,
        kind: span.kind,
        attributes: texts(span.attributes),
        resource: resource.clone(),
        failed: span.status.unwrap_or_default().code == StatusCode::Error as i32,
        nanoseconds: span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: AnyValue| match value.value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = attributes.into_iter();
    pairs
        .map(|pair| (pair.key, text(pair.value.unwrap_or_default())))
        .collect()
}
