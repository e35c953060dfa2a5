//! What a request's span costs: where tracing is off, where the trace is not
//! recorded, where it is, and what sending it takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Endpoint, Uri};
use watchword_daemon::{Asked, Metrics, SystemClock, TraceSettings, Traces};
use watchword_tests::Collector;

/// Fewer than may wait.
const SPANS: u64 = 1_024;

fn main() -> anyhow::Result<()> {
    let mut criterion = watchword_benches::criterion();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("otel.sock");
    let _collector = Collector::start(&socket)?;
    let none = HeaderMap::new();
    let parent = headers("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let unrecorded = headers("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
    let cases = [
        ("off", None, &none),
        ("off/parent", None, &parent),
        ("not-recorded", Some(0.0), &none),
        ("not-recorded/parent", Some(0.0), &unrecorded),
    ];
    let mut group = criterion.benchmark_group("span");
    for (name, ratio, headers) in cases {
        let traces = traces(&runtime, ratio, &socket)?;
        group.bench_function(name, |bencher| bencher.iter(|| request(&traces, headers)));
    }
    for (name, ratio, headers) in [("recorded", 1.0, &none), ("recorded/parent", 0.0, &parent)] {
        let traces = traces(&runtime, Some(ratio), &socket)?;
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| in_chunks(times, &runtime, &traces, headers));
        });
    }
    group.finish();
    sending(&mut criterion, &runtime, &traces(&runtime, Some(1.0), &socket)?);
    criterion.final_summary();
    Ok(())
}

/// The time of both sides, and of the socket between them.
fn sending(criterion: &mut Criterion, runtime: &Runtime, traces: &Traces) {
    let mut group = criterion.benchmark_group("send");
    group.throughput(Throughput::Elements(SPANS));
    group.bench_function(SPANS.to_string(), |bencher| {
        bencher.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                (0..SPANS).for_each(|_| request(traces, &HeaderMap::new()));
                let began = Instant::now();
                runtime.block_on(traces.flush());
                spent += began.elapsed();
            }
            spent
        });
    });
}

/// Spans are sent in between, so that none is dropped for lack of room.
fn in_chunks(times: u64, runtime: &Runtime, traces: &Traces, headers: &HeaderMap) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = times;
    while left > 0 {
        let chunk = left.min(SPANS);
        let began = Instant::now();
        (0..chunk).for_each(|_| request(traces, headers));
        spent += began.elapsed();
        left -= chunk;
        runtime.block_on(traces.flush());
    }
    spent
}

/// What a proxy does for one request.
fn request(traces: &Traces, headers: &HeaderMap) {
    let asked = Asked {
        method: &Method::GET,
        path: "/orders/4711",
        port: 8080,
        from: [10, 87, 0, 4].into(),
        client: "spiffe://example.org/web",
        server: "spiffe://example.org/orders",
    };
    let mut span = traces.begin(&asked, headers);
    std::hint::black_box(span.traceparent());
    span.judged("allow", Some("orders"), Some("web reads orders"));
    span.end(StatusCode::OK);
}

fn headers(parent: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", HeaderValue::from_static(parent));
    headers
}

fn traces(runtime: &Runtime, ratio: Option<f64>, socket: &std::path::Path) -> anyhow::Result<Traces> {
    let Some(sample_ratio) = ratio else {
        return Ok(Traces::off());
    };
    let _inside = runtime.enter();
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let settings = TraceSettings {
        service: "bench",
        instance: String::new(),
        sample_ratio,
        clock: Arc::new(SystemClock),
        meter: Metrics::new()?.meter(),
    };
    let channel = Endpoint::from_static("http://collector").connect_with_connector_lazy(connector);
    Ok(Traces::otlp(settings, channel))
}
