//! Requests that two readers could take differently are refused, and nothing of
//! them reaches the app. As raw bytes, since no client would send them.

use super::{got, got_so_many, mesh, raw, raw_in_two};

/// A request hidden in another one, which would be seen as a path of its own.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: orders\r\n\r\n";

/// The reason, and a request with it.
fn misread() -> Vec<(&'static str, String)> {
    let post = |headers: &str, body: &str| format!("POST /x HTTP/1.1\r\nHost: orders\r\n{headers}\r\n{body}");
    vec![
        (
            "two-lengths",
            post(
                "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
                &format!("0\r\n\r\n{HIDDEN}"),
            ),
        ),
        (
            "two-lengths",
            post(
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                &format!("0\r\n\r\n{HIDDEN}"),
            ),
        ),
        (
            "transfer-encoding",
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                &format!("0\r\n\r\n{HIDDEN}"),
            ),
        ),
        ("transfer-encoding", post("Transfer-Encoding: xchunked\r\n", HIDDEN)),
        ("header-name", post("Transfer-Encoding : chunked\r\n", HIDDEN)),
        (
            "content-length",
            post("Content-Length: 0\r\nContent-Length: 40\r\n", HIDDEN),
        ),
        ("content-length", post("Content-Length: 1, 40\r\n", HIDDEN)),
        ("obs-fold", post("X: a\r\n Transfer-Encoding: chunked\r\n", HIDDEN)),
        ("bare-lf", post("X: a\nTransfer-Encoding: chunked\r\n", HIDDEN)),
        ("bare-cr", post("X: a\rTransfer-Encoding: chunked\r\n", HIDDEN)),
        ("header-name", post("X\u{0}: a\r\n", "")),
        ("header-name", post("Content_Length: 40\r\n", HIDDEN)),
        ("header-value", post("X: a\u{0}b\r\n", "")),
        ("reserved-header", post("Watchword-Refused: bare-lf\r\n", "")),
        ("host", "GET /x HTTP/1.1\r\n\r\n".to_owned()),
        ("host", post("Host: other\r\n", "")),
        ("host", "GET http://other/x HTTP/1.1\r\nHost: orders\r\n\r\n".to_owned()),
        ("connection-header", post("Connection: Content-Length\r\n", "")),
        ("request-line", "GET  /x HTTP/1.1\r\nHost: orders\r\n\r\n".to_owned()),
    ]
}

#[test]
fn requests_with_two_readings_are_refused_and_nothing_of_them_reaches_the_app() {
    let mesh = mesh();
    for (label, request) in misread() {
        let answer = raw(&mesh, request.as_bytes());
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
            "{request:?}: {answer}"
        );
        assert!(
            answer.contains(&format!("watchword-denied: -/{label}\r\n")),
            "{request:?}: {answer}"
        );
        // What came behind it is not answered.
        assert_eq!(answer.matches("HTTP/1.1 4").count(), 1, "{request:?}: {answer}");
        assert!(!answer.contains("HTTP/1.1 2"), "{request:?}: {answer}");
    }
    assert_eq!(got(&mesh), [""; 0]);
    mesh.output()
        .wait_for("the reason in the log", |line| {
            line.contains("reason=two-lengths") && line.contains("status=400") && line.contains("result=denied")
        })
        .unwrap();
}

#[test]
fn other_versions_methods_and_sizes_have_statuses_of_their_own() {
    let mesh = mesh();
    let long = format!("GET / HTTP/1.1\r\nHost: orders\r\nX: {}\r\n\r\n", "a".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\nHost: orders\r\n{}\r\n", "X: a\r\n".repeat(200));
    let table = [
        ("505", "GET / HTTP/3.0\r\nHost: orders\r\n\r\n".to_owned()),
        (
            "405",
            "CONNECT orders:80 HTTP/1.1\r\nHost: orders:80\r\n\r\n".to_owned(),
        ),
        ("431", long),
        ("431", many),
    ];
    for (status, request) in table {
        let answer = raw(&mesh, request.as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    assert_eq!(got(&mesh), [""; 0]);
}

#[test]
fn a_fault_behind_a_good_request_is_answered_in_its_turn() {
    let mesh = mesh();
    let both = "GET /first HTTP/1.1\r\nHost: orders\r\n\r\nGET /second HTTP/1.1\nHost: orders\r\n\r\n";
    let answer = raw(&mesh, both.as_bytes());
    let statuses: Vec<&str> = answer
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| &answer[at + 9..at + 12])
        .collect();
    // The body of the first answer holds its request.
    assert_eq!(statuses.first(), Some(&"200"), "{answer}");
    assert_eq!(statuses.last(), Some(&"400"), "{answer}");
    got_so_many(&mesh, 1);
}

#[test]
fn a_chunk_that_lies_about_its_size_breaks_the_connection_to_the_app_too() {
    let mesh = mesh();
    let good = "POST /x HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let until_it_arrives = || {
        let arrived = |line: &str| line.contains("HEAD POST /x");
        mesh.output().wait_for("the head to reach the app", arrived).unwrap();
    };
    let answer = raw_in_two(&mesh, good.as_bytes(), until_it_arrives, b"3\r\nabcdef\r\n0\r\n\r\n");
    assert!(!answer.contains("200 OK"), "{answer}");
    mesh.output()
        .wait_for("the app to see that it is not whole", |line| line.contains("LOST"))
        .unwrap();
    assert_eq!(got(&mesh), [""; 0]);
}

#[test]
fn http_2_in_disguise_is_served_as_http_1() {
    let mesh = mesh();
    let request = "GET /x HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: \
                   h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    let answer = raw(&mesh, request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // Its end is one in order, though the library had prepared for an upgrade.
    assert!(!answer.ends_with("RESET"), "{answer}");
    mesh.output()
        .wait_for("the end of the connection", |line| {
            line.contains("connection ") && line.contains("direction=inbound") && line.contains("reason=finished")
        })
        .unwrap();
    let got = got_so_many(&mesh, 1).concat().to_lowercase();
    assert!(!got.contains("h2c") && !got.contains("http2-settings"), "{got}");
}
