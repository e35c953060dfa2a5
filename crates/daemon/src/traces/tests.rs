#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper_util::rt::TokioIo;
use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use tonic::transport::{Endpoint, Uri};
use watchword_tests::{Collector, ReceivedSpan};

use super::*;
use crate::{ManualClock, Metrics};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// Traces to a socket where a collector may or may not be.
struct Stage {
    folder: tempfile::TempDir,
    metrics: Metrics,
    clock: Arc<ManualClock>,
    traces: Traces,
}

impl Stage {
    fn new(sample_ratio: f64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Metrics::new().unwrap();
        let clock = Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_000)));
        let settings = TraceSettings {
            service: "the-service",
            instance: "the-instance".to_owned(),
            sample_ratio,
            clock: clock.clone(),
            meter: metrics.meter(),
        };
        let traces = Traces::otlp(settings, channel(&folder.path().join("otel.sock")));
        Self {
            folder,
            metrics,
            clock,
            traces,
        }
    }

    fn collector(&self) -> Collector {
        Collector::start(&self.folder.path().join("otel.sock")).unwrap()
    }

    /// One whole request.
    fn request(&self, headers: &HeaderMap, status: StatusCode) {
        self.traces.begin(&asked(&Method::GET, "/"), headers).end(status);
    }

    fn dropped(&self) -> String {
        let text = self.metrics.render().unwrap();
        let lines = text.lines().filter(|line| line.starts_with("watchword_spans_dropped"));
        lines.collect()
    }
}

fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://collector").connect_with_connector_lazy(connector)
}

fn asked<'a>(method: &'a Method, path: &'a str) -> Asked<'a> {
    Asked {
        method,
        path,
        port: 8080,
        from: [10, 0, 0, 9].into(),
        client: "spiffe://example.org/web",
        server: "spiffe://example.org/orders",
    }
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn caller(flags: &str) -> HeaderMap {
    let parent = format!("00-{TRACE}-{SPAN}-{flags}");
    headers(&[("traceparent", &parent), ("tracestate", "vendor=1")])
}

/// The only span, once it has come.
async fn only(collector: Collector) -> ReceivedSpan {
    let waited = tokio::task::spawn_blocking(move || {
        collector.wait_for_number(1)?;
        anyhow::Ok(collector.spans())
    });
    let mut spans = waited.await.unwrap().unwrap();
    assert_eq!(spans.len(), 1, "{spans:#?}");
    spans.remove(0)
}

#[tokio::test]
async fn a_request_is_a_span_that_says_what_it_was() {
    let stage = Stage::new(1.0);
    let collector = stage.collector();
    let mut span = stage.traces.begin(&asked(&Method::GET, "/orders/7"), &HeaderMap::new());
    span.judged("allow", Some("orders"), Some("web reads orders"));
    stage.clock.advance(Duration::from_millis(3));
    let trace_id = span.trace_id().unwrap().to_string();
    span.end(StatusCode::OK);
    let span = only(collector).await;
    assert_eq!((span.name.as_str(), span.kind, span.failed), ("GET", 2, false));
    assert_eq!((span.trace_id, span.parent_span_id), (trace_id, String::new()));
    assert_eq!(span.nanoseconds, 3_000_000);
    let expected = [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("network.peer.address", "10.0.0.9"),
        ("server.port", "8080"),
        ("url.path", "/orders/7"),
        ("url.scheme", "http"),
        ("watchword.client.id", "spiffe://example.org/web"),
        ("watchword.decision", "allow"),
        ("watchword.policy", "orders"),
        ("watchword.rule", "web reads orders"),
        ("watchword.server.id", "spiffe://example.org/orders"),
    ];
    let found = span
        .attributes
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    assert_eq!(found.collect::<Vec<_>>(), expected);
    assert_eq!(span.resource["service.name"], "the-service");
    assert_eq!(span.resource["service.instance.id"], "the-instance");
}

#[tokio::test]
async fn a_callers_trace_goes_on() {
    let stage = Stage::new(0.0);
    let collector = stage.collector();
    let mut passed = caller("01");
    let span = stage.traces.begin(&asked(&Method::GET, "/"), &passed);
    span.pass_on(&mut passed);
    span.end(StatusCode::OK);
    let span = only(collector).await;
    assert_eq!((span.trace_id.as_str(), span.parent_span_id.as_str()), (TRACE, SPAN));
    assert_eq!(span.trace_state, "vendor=1");
    assert_eq!(passed["traceparent"], format!("00-{TRACE}-{}-01", span.span_id));
    assert_eq!(passed["tracestate"], "vendor=1");
}

#[tokio::test]
async fn a_trace_that_its_caller_does_not_record_is_not_recorded_but_goes_on() {
    let stage = Stage::new(1.0);
    let collector = stage.collector();
    let mut passed = caller("00");
    let span = stage.traces.begin(&asked(&Method::GET, "/"), &passed);
    span.pass_on(&mut passed);
    assert_eq!(span.trace_id().unwrap().to_string(), TRACE);
    span.end(StatusCode::OK);
    let parent = parent::read(&passed).unwrap();
    assert_eq!((parent.trace_id.to_string().as_str(), parent.sampled), (TRACE, false));
    assert_ne!(parent.span_id.to_string(), SPAN);
    assert_eq!(passed["tracestate"], "vendor=1");
    stage.traces.flush().await;
    assert!(collector.spans().is_empty());
}

#[tokio::test]
async fn an_invalid_parent_begins_a_new_trace_and_its_state_goes() {
    let stage = Stage::new(0.0);
    let mut passed = headers(&[("traceparent", "00-xyz"), ("tracestate", "vendor=1")]);
    let span = stage.traces.begin(&asked(&Method::GET, "/"), &passed);
    span.pass_on(&mut passed);
    let parent = parent::read(&passed).unwrap();
    assert_eq!(parent.trace_id.to_string(), span.trace_id().unwrap().to_string());
    assert!(!parent.sampled);
    assert!(!passed.contains_key("tracestate"));
}

#[tokio::test]
async fn off_leaves_headers_alone_and_still_knows_the_callers_trace() {
    let traces = Traces::off();
    let before = caller("01");
    let mut passed = before.clone();
    let span = traces.begin(&asked(&Method::GET, "/"), &passed);
    span.pass_on(&mut passed);
    assert_eq!(passed, before);
    assert_eq!(span.traceparent(), None);
    assert_eq!(span.trace_id().unwrap().to_string(), TRACE);
    let span = traces.begin(&asked(&Method::GET, "/"), &HeaderMap::new());
    assert_eq!(span.trace_id(), None);
    traces.flush().await;
}

#[tokio::test]
async fn the_ratio_decides_where_nobody_has() {
    for (ratio, expected) in [(0.0, 0..=0), (1.0, 500..=500), (0.5, 150..=350)] {
        let stage = Stage::new(ratio);
        let collector = stage.collector();
        for _ in 0..500 {
            stage.request(&HeaderMap::new(), StatusCode::OK);
        }
        stage.traces.flush().await;
        let count = collector.spans().len();
        assert!(expected.contains(&count), "{ratio}: {count}");
    }
}

#[tokio::test]
async fn failures_are_the_servers_alone_and_what_is_dropped_was_cancelled() {
    let stage = Stage::new(1.0);
    let collector = stage.collector();
    stage.request(&HeaderMap::new(), StatusCode::FORBIDDEN);
    stage.request(&HeaderMap::new(), StatusCode::BAD_GATEWAY);
    drop(stage.traces.begin(&asked(&Method::GET, "/"), &HeaderMap::new()));
    stage.traces.flush().await;
    let spans = collector.spans();
    let found: Vec<_> = spans
        .iter()
        .map(|span| {
            let status = span.attribute("http.response.status_code");
            (span.failed, status, span.attribute("error.type"))
        })
        .collect();
    assert_eq!(
        found,
        [(false, "403", ""), (true, "502", "502"), (true, "", "cancelled")]
    );
}

#[tokio::test]
async fn what_a_caller_thinks_up_is_bounded() {
    let stage = Stage::new(1.0);
    let collector = stage.collector();
    let method = Method::from_bytes(b"BREW").unwrap();
    let path = format!("/{}", "é".repeat(4_000));
    stage
        .traces
        .begin(&asked(&method, &path), &HeaderMap::new())
        .end(StatusCode::OK);
    let span = only(collector).await;
    assert_eq!(
        (span.name.as_str(), span.attribute("http.request.method")),
        ("HTTP", "_OTHER")
    );
    assert_eq!(span.attribute("http.request.method_original"), "BREW");
    assert_eq!(span.attribute("url.path").len(), 1_023);
}

#[tokio::test]
async fn spans_wait_for_a_collector_that_comes_late_or_comes_back() {
    let stage = Stage::new(1.0);
    stage.request(&HeaderMap::new(), StatusCode::OK);
    // Nobody is there: it comes back although nothing was sent.
    stage.traces.flush().await;
    let collector = stage.collector();
    stage.traces.flush().await;
    assert_eq!(collector.spans().len(), 1);
    drop(collector);
    stage.request(&HeaderMap::new(), StatusCode::OK);
    stage.traces.flush().await;
    // Without being asked, after its pause.
    only(stage.collector()).await;
    assert_eq!(stage.dropped(), "");
}

#[tokio::test]
async fn what_does_not_fit_is_dropped_and_counted() {
    let stage = Stage::new(1.0);
    for _ in 0..2_048 + 7 {
        stage.request(&HeaderMap::new(), StatusCode::OK);
    }
    assert!(
        stage.dropped().ends_with("{reason=\"queue-full\"} 7"),
        "{}",
        stage.dropped()
    );
    let collector = stage.collector();
    stage.traces.flush().await;
    assert_eq!(collector.spans().len(), 2_048);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_nobody_takes_is_given_up() {
    let stage = Stage::new(1.0);
    stage.request(&HeaderMap::new(), StatusCode::OK);
    let given_up = async {
        while !stage.dropped().ends_with("{reason=\"not-taken\"} 1") {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(Duration::from_secs(600), given_up).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_does_not_answer_keeps_nobody_from_ending() {
    let stage = Stage::new(1.0);
    // Accepted by the kernel, and by nobody else.
    let _silent = std::os::unix::net::UnixListener::bind(stage.folder.path().join("otel.sock")).unwrap();
    stage.request(&HeaderMap::new(), StatusCode::OK);
    let began = tokio::time::Instant::now();
    stage.traces.flush().await;
    assert!(began.elapsed() <= FLUSH_DEADLINE, "{:?}", began.elapsed());
}

proptest! {
    #[test]
    fn whatever_a_caller_says_the_next_hop_hears_what_is_valid(
        parents in vec(vec(any::<u8>(), 0..80), 0..3),
        state in vec(any::<u8>(), 0..80),
    ) {
        let mut passed = HeaderMap::new();
        for parent in parents {
            if let Ok(value) = HeaderValue::from_bytes(&parent) {
                passed.append("traceparent", value);
            }
        }
        if let Ok(value) = HeaderValue::from_bytes(&state) {
            passed.insert("tracestate", value);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let stage = Stage::new(0.5);
        let span = stage.traces.begin(&asked(&Method::GET, "/"), &passed);
        span.pass_on(&mut passed);
        assert!(parent::read(&passed).is_some(), "{passed:?}");
        span.end(StatusCode::OK);
    }
}
