//! Requests as spans: in the caller's trace, with what was decided, and never
//! in the way of the request.

use watchword_tests::{Collector, Mesh, shown};

use super::{POLICIES, answer, mesh_file};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const SAMPLED: &str = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const URL: &str = "http://orders:8080";

/// The section that docs/tracing.md shows, with a socket and a ratio of ours.
fn shown_section(ratio: &str) -> String {
    let section = shown(include_str!("../../../../docs/tracing.md"), "# Tracing", "yaml").unwrap();
    let own = section.replace("/run/otel.sock", "otel.sock").replace("0.01 ", ratio);
    assert!(own.contains("unix:otel.sock") && own.contains(ratio), "{section}");
    own
}

fn traced(ratio: &str) -> (Mesh, Collector) {
    let file = mesh_file(&shown_section(ratio), POLICIES);
    let collector = Collector::start(&file.folder().join("otel.sock")).unwrap();
    (file.up().unwrap(), collector)
}

/// The value of a header of the only request with this path that the app got.
fn header(mesh: &Mesh, path: &str, name: &str) -> Option<String> {
    let is_it = |line: &str| line.split("GOT ").nth(1).and_then(|got| got.split(' ').nth(1)) == Some(path);
    let line = mesh.output().wait_for("the app to say what it got", is_it).unwrap();
    let headers = line.split(" | ").filter_map(|header| header.split_once(": "));
    let mut values = headers.filter(|(found, _)| found.eq_ignore_ascii_case(name));
    let value = values.next().map(|(_, value)| value.to_owned());
    assert_eq!(values.next(), None, "{line}");
    value
}

fn logged(mesh: &Mesh, parts: &[&str]) {
    mesh.output()
        .wait_for("its line in the access log", |line| {
            line.contains("request ") && parts.iter().all(|part| line.contains(part))
        })
        .unwrap();
}

#[test]
fn a_request_is_a_span_in_its_callers_trace_and_the_apps_is_the_next() {
    let (mesh, collector) = traced("1");
    let state = "tracestate: vendor=opaque";
    answer(
        &mesh,
        "web",
        &["--header", SAMPLED, "--header", state, &format!("{URL}/read?secret=1")],
    );
    let span = collector
        .wait_for("the span", |span| span.attribute("url.path") == "/read")
        .unwrap();
    assert_eq!((span.trace_id.as_str(), span.parent_span_id.as_str()), (TRACE, PARENT));
    assert_eq!((span.name.as_str(), span.kind, span.failed), ("GET", 2, false));
    let expected = [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("server.port", "8080"),
        ("watchword.client.id", "spiffe://example.org/web"),
        ("watchword.server.id", "spiffe://example.org/orders"),
        ("watchword.decision", "allow"),
        ("watchword.policy", "orders"),
        ("watchword.rule", "web reads and writes"),
    ];
    for (key, value) in expected {
        assert_eq!(span.attribute(key), value, "{key} of {span:#?}");
    }
    assert!(!format!("{span:?}").contains("secret"), "{span:#?}");
    let passed_on = header(&mesh, "/read?secret=1", "traceparent");
    assert_eq!(passed_on, Some(format!("00-{TRACE}-{}-01", span.span_id)));
    assert_eq!(
        header(&mesh, "/read?secret=1", "tracestate"),
        Some("vendor=opaque".to_owned())
    );
    logged(&mesh, &["path=/read", &format!("trace_id={TRACE}")]);
}

#[test]
fn a_trace_begins_at_the_sidecar_where_the_caller_has_none() {
    let (mesh, collector) = traced("1");
    for (path, more) in [("/none", "x: y"), ("/broken", "traceparent: 00-nonsense-01")] {
        answer(&mesh, "web", &["--header", more, &format!("{URL}{path}")]);
        let span = collector
            .wait_for("the span", |span| span.attribute("url.path") == path)
            .unwrap();
        assert_eq!(span.parent_span_id, "");
        let passed_on = header(&mesh, path, "traceparent");
        assert_eq!(passed_on, Some(format!("00-{}-{}-01", span.trace_id, span.span_id)));
        logged(
            &mesh,
            &[&format!("path={path}"), &format!("trace_id={}", span.trace_id)],
        );
    }
}

#[test]
fn a_denied_request_has_a_span_that_says_by_which_rule() {
    let (mesh, collector) = traced("1");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let path = format!("/admin/{}", &version[2..6]);
        let denied = answer(&mesh, "web", &[version, "--header", SAMPLED, &format!("{URL}{path}")]);
        assert!(denied.contains(" 403"), "{denied}");
        let span = collector
            .wait_for("the span", |span| span.attribute("url.path") == path)
            .unwrap();
        assert_eq!((span.trace_id.as_str(), span.parent_span_id.as_str()), (TRACE, PARENT));
        assert_eq!(span.attribute("http.response.status_code"), "403");
        assert_eq!(span.attribute("watchword.decision"), "deny");
        assert_eq!(span.attribute("watchword.rule"), "nobody is admin");
        // It was answered as it should be.
        assert!(!span.failed);
        logged(
            &mesh,
            &[&format!("path={path}"), "decision=deny", &format!("trace_id={TRACE}")],
        );
    }
}

#[test]
fn with_a_ratio_of_nothing_only_what_callers_record_is_recorded() {
    let (mesh, collector) = traced("0");
    let unsampled = SAMPLED.replace("-01", "-00");
    answer(&mesh, "web", &[&format!("{URL}/unheard")]);
    answer(&mesh, "web", &["--header", &unsampled, &format!("{URL}/unsampled")]);
    answer(&mesh, "web", &["--header", SAMPLED, &format!("{URL}/heard")]);
    let span = collector
        .wait_for("the span", |span| span.attribute("url.path") == "/heard")
        .unwrap();
    assert_eq!(span.trace_id, TRACE);
    // They came before it, and would have been sent with it.
    let paths: Vec<_> = collector
        .spans()
        .iter()
        .map(|span| span.attribute("url.path").to_owned())
        .collect();
    assert_eq!(paths, ["/heard"]);
    // What comes next knows that this is not recorded, and keeps the trace.
    let passed_on = header(&mesh, "/unsampled", "traceparent").unwrap();
    assert!(
        passed_on.starts_with(&format!("00-{TRACE}-")) && passed_on.ends_with("-00"),
        "{passed_on}"
    );
    assert!(!passed_on.contains(PARENT), "{passed_on}");
    assert!(header(&mesh, "/unheard", "traceparent").unwrap().ends_with("-00"));
}

#[test]
fn without_tracing_headers_pass_unchanged() {
    let mesh = super::mesh();
    answer(
        &mesh,
        "web",
        &[
            "--header",
            SAMPLED,
            "--header",
            "tracestate: a=b",
            &format!("{URL}/with"),
        ],
    );
    answer(&mesh, "web", &[&format!("{URL}/without")]);
    answer(
        &mesh,
        "web",
        &["--header", "traceparent: nonsense", &format!("{URL}/nonsense")],
    );
    assert_eq!(
        header(&mesh, "/with", "traceparent").as_deref(),
        SAMPLED.split_once(": ").map(|(_, value)| value)
    );
    assert_eq!(header(&mesh, "/with", "tracestate").as_deref(), Some("a=b"));
    assert_eq!(header(&mesh, "/without", "traceparent"), None);
    assert_eq!(header(&mesh, "/nonsense", "traceparent").as_deref(), Some("nonsense"));
    logged(&mesh, &["path=/with", &format!("trace_id={TRACE}")]);
}

#[test]
fn a_collector_that_is_away_changes_nothing_for_requests() {
    let (mesh, collector) = traced("1");
    let socket = mesh.file().folder().join("otel.sock");
    drop(collector);
    for number in 0..50 {
        let answer = answer(&mesh, "web", &["--header", SAMPLED, &format!("{URL}/away/{number}")]);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // It comes back, and so do spans.
    let collector = Collector::start(&socket).unwrap();
    answer(&mesh, "web", &["--header", SAMPLED, &format!("{URL}/back")]);
    collector
        .wait_for("the span", |span| span.attribute("url.path") == "/back")
        .unwrap();
}
