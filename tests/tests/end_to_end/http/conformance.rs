//! HTTP/2 as RFC 9113 and RFC 7541 have it: h2spec finds no fault in a service
//! behind a sidecar that it doesn't find in the service itself.

use std::collections::BTreeSet;

use watchword_tests::{Mesh, MeshFile};

/// Cases that the sidecar fails, and the app passes. On this one, what is no
/// preface of HTTP/2 is taken for HTTP/1, answered in it, and then closed;
/// h2spec wants the end alone
/// (docs/decisions/0014-what-is-not-http-2-is-http-1.md).
const EXCEPTIONS: [&str; 1] = ["http2/3.5: Sends invalid connection preface"];
/// Of h2spec 2.2.1.
const CASES: usize = 145;

/// Runs all cases as a service, and gives back those that failed.
fn failures(mesh: &Mesh, service: &str, host: &str) -> BTreeSet<String> {
    let program = mesh.file().folder().join("h2spec");
    let report = mesh.file().folder().join("reports").join(format!("{service}.xml"));
    let (program, report_path) = (program.to_str().unwrap(), report.to_str().unwrap());
    // Its exit status is 1 when a case fails.
    let command = [
        "timeout",
        "300",
        program,
        "-h",
        host,
        "-p",
        "8080",
        "-o",
        "10",
        "-j",
        report_path,
    ];
    let finished = mesh.exec(service, &command).unwrap();
    let xml = std::fs::read_to_string(&report).unwrap_or_else(|error| {
        panic!("{error}: {finished:?}");
    });
    let cases: Vec<&str> = xml.split("<testcase ").skip(1).collect();
    assert_eq!(cases.len(), CASES, "{xml}");
    let failed = cases
        .into_iter()
        .filter(|case| case.contains("<failure") || case.contains("<error"));
    failed
        .map(|case| format!("{}: {}", attribute(case, "package"), attribute(case, "classname")))
        .collect()
}

fn attribute<'a>(case: &'a str, name: &str) -> &'a str {
    let (_, rest) = case.split_once(&format!("{name}=\"")).unwrap();
    rest.split('"').next().unwrap()
}

#[test]
fn http_2_behind_a_sidecar_fails_no_case_that_the_app_passes() {
    let services = "\
web: {run: [sleep, infinity]}
orders: {run: [nghttpd, --no-tls, --htdocs, www, '8080'], ports: {8080: http}, healthy: {port: 8080}}
";
    let policies = "name: orders\nservice: spiffe://example.org/orders\nallow: [{from: [spiffe://example.org/web]}]\n";
    let file = MeshFile::new(services, policies).unwrap();
    file.lend("h2spec").unwrap();
    file.open_folder("reports").unwrap();
    file.open_folder("www").unwrap();
    file.write("www/index.html", "hello\n").unwrap();
    let mesh = file.up().unwrap();
    // In its own network: nobody stands in between.
    let alone = failures(&mesh, "orders", "127.0.0.1");
    let through = failures(&mesh, "web", "orders");
    let excepted = |case: &&String| EXCEPTIONS.contains(&case.as_str());
    let worse: Vec<_> = through.difference(&alone).filter(|case| !excepted(case)).collect();
    assert!(worse.is_empty(), "the sidecar alone fails {worse:#?}");
    // An exception that is none any more is to be taken out.
    assert_eq!(through.iter().filter(excepted).count(), EXCEPTIONS.len());
    assert!(alone.len() <= 2, "h2spec itself is not well: {alone:#?}");
    let answer = super::raw(&mesh, b"INVALID CONNECTION PREFACE\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(
        answer.contains("\r\nconnection: close\r\n") && !answer.ends_with("RESET"),
        "{answer}"
    );
}
