#![allow(clippy::unwrap_used, clippy::panic)]

use http::request::Parts;
use http::{HeaderMap, Request, Version};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};
use watchword_policy::path::normalise;

use super::{Facts, clean};
use crate::http::fault::Fault;
use crate::http::headers::is_ours;

/// The parts of a request; its target as it stands in the first line.
fn parts(version: Version, method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().version(version).method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn cleaned(version: Version, method: &str, target: &str, headers: &[(&str, &str)]) -> Result<(Parts, Facts), Fault> {
    let mut parts = parts(version, method, target, headers);
    let facts = clean(&mut parts)?;
    Ok((parts, facts))
}

fn get(target: &str, headers: &[(&str, &str)]) -> Result<(Parts, Facts), Fault> {
    cleaned(Version::HTTP_11, "GET", target, headers)
}

fn names(headers: &HeaderMap) -> Vec<String> {
    let mut names: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_judged_is_what_is_sent() {
    let table = [
        ("/a/b", "/a/b"),
        ("/a/b?q=/../x", "/a/b?q=/../x"),
        ("/a/../b", "/b"),
        ("/a//b/./c", "/a/b/c"),
        ("/%61dmin", "/admin"),
        ("/a%2e%2e/b?x", "/a../b?x"),
        ("http://orders/a/../b", "/b"),
        ("http://orders", "/"),
    ];
    for (given, sent) in table {
        let (parts, facts) = get(given, &[("host", "orders")]).unwrap();
        assert_eq!(parts.uri.to_string(), sent);
        assert_eq!(facts.uri.to_string(), sent);
        assert_eq!(facts.as_request().path, sent.split('?').next().unwrap());
    }
}

#[test]
fn http_2_is_sent_on_with_its_authority() {
    let (parts, facts) = cleaned(Version::HTTP_2, "GET", "https://orders:8080/a//b", &[]).unwrap();
    assert_eq!(parts.uri.to_string(), "http://orders:8080/a/b");
    assert_eq!(facts.as_request().host, Some("orders:8080"));
    let only_host = cleaned(Version::HTTP_2, "GET", "/a", &[("host", "orders")]).unwrap().0;
    assert_eq!(only_host.uri.to_string(), "http://orders/a");
    assert!(only_host.headers.is_empty());
}

#[test]
fn one_host_is_needed() {
    type Case<'a> = (
        Version,
        &'a str,
        &'a [(&'a str, &'a str)],
        Result<Option<&'a str>, Fault>,
    );
    let table: &[Case<'_>] = &[
        (Version::HTTP_11, "/", &[("host", "a")], Ok(Some("a"))),
        (Version::HTTP_11, "/", &[("host", "a:80")], Ok(Some("a:80"))),
        (Version::HTTP_11, "/", &[("host", "[::1]:80")], Ok(Some("[::1]:80"))),
        (Version::HTTP_10, "/", &[], Ok(None)),
        (Version::HTTP_11, "/", &[], Err(Fault::Host)),
        (Version::HTTP_11, "http://a/", &[], Err(Fault::Host)),
        (Version::HTTP_11, "/", &[("host", "a"), ("host", "a")], Err(Fault::Host)),
        (Version::HTTP_11, "http://a/", &[("host", "b")], Err(Fault::Host)),
        (Version::HTTP_11, "http://A/", &[("host", "a")], Ok(Some("a"))),
        (Version::HTTP_11, "http://u@a/", &[("host", "a")], Err(Fault::Host)),
        (Version::HTTP_11, "/", &[("host", "u@a")], Err(Fault::Host)),
        (Version::HTTP_11, "/", &[("host", "")], Err(Fault::Host)),
        (Version::HTTP_11, "/", &[("host", "a, b")], Err(Fault::Host)),
        (Version::HTTP_11, "/", &[("host", "a/b")], Err(Fault::Host)),
        (Version::HTTP_2, "http://a/", &[("host", "b")], Err(Fault::Host)),
        (Version::HTTP_2, "/", &[], Err(Fault::Host)),
    ];
    for (version, target, headers, expected) in table {
        let found = cleaned(*version, "GET", target, headers).map(|(_, facts)| facts.host);
        let found = found.map(|host| host.map(|host| host.to_str().unwrap().to_owned()));
        assert_eq!(
            found,
            expected.map(|host| host.map(str::to_owned)),
            "{target} {headers:?}"
        );
    }
}

#[test]
fn targets_that_are_no_path_are_refused() {
    let host = [("host", "a")];
    assert_eq!(
        cleaned(Version::HTTP_11, "CONNECT", "a:80", &host).unwrap_err(),
        Fault::Connect
    );
    assert_eq!(get("*", &host).unwrap_err(), Fault::Target);
    assert_eq!(get("https://a/", &host).unwrap_err(), Fault::Target);
    assert_eq!(get("ftp://a/", &host).unwrap_err(), Fault::Target);
    let options = cleaned(Version::HTTP_11, "OPTIONS", "*", &host).unwrap();
    assert_eq!(options.0.uri.to_string(), "*");
    for path in ["/%2fadmin", "/a%5cb", "/%00", "/%zz", "/../a", "/a;x/..;/b"] {
        assert!(matches!(get(path, &host), Err(Fault::Path(_))), "{path}");
    }
}

#[test]
fn headers_of_the_hop_and_of_liars_are_removed() {
    let (parts, facts) = get(
        "/",
        &[
            ("host", "a"),
            ("connection", "keep-alive, X-Hop, x-forwarded-client-cert"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-forwarded-client-cert", "URI=spiffe://example.org/admin"),
            ("x_forwarded-client_cert", "URI=spiffe://example.org/admin"),
            ("watchword-denied", "a/b"),
            ("watchword_refused", "a"),
            ("x-end", "2"),
        ],
    )
    .unwrap();
    assert_eq!(names(&parts.headers), ["host=a", "te=trailers", "x-end=2"]);
    assert_eq!(facts.headers, parts.headers);
    for name in ["host", "Content-Length"] {
        let headers = [("host", "a"), ("connection", name)];
        assert_eq!(get("/", &headers).unwrap_err(), Fault::Connection);
    }
}

#[test]
fn a_websocket_is_let_through_and_http_2_in_disguise_is_not() {
    let upgrade = |protocol: &str| {
        let headers = [
            ("host", "a"),
            ("connection", "Upgrade, HTTP2-Settings"),
            ("upgrade", protocol),
            ("http2-settings", "AAMAAABkAAQAAP__"),
        ];
        names(&get("/", &headers).unwrap().0.headers)
    };
    assert_eq!(
        upgrade("websocket"),
        ["connection=upgrade", "host=a", "upgrade=websocket"]
    );
    for disguised in ["h2c", "H2C", "websocket, h2c", "HTTP/2.0", "TLS/1.2"] {
        assert_eq!(upgrade(disguised), ["host=a"], "{disguised}");
    }
    // Without `Connection` it is nobody's wish.
    let silent = get("/", &[("host", "a"), ("upgrade", "websocket")]).unwrap().0;
    assert_eq!(names(&silent.headers), ["host=a"]);
}

/// Requests as they may come, most of them odd.
fn any_request() -> impl Strategy<Value = Option<Parts>> {
    let name = prop_oneof![
        "(connection|te|upgrade|host|keep-alive|trailer|x-forwarded-client-cert|watchword_denied|content-length)",
        "[A-Za-z_-]{1,8}",
    ];
    let value = prop_oneof![
        "(close|keep-alive|upgrade|x-a|host|trailers|websocket|h2c|orders|a:80)(, (x-b|te|h2c))?",
        "[ -~]{0,12}",
    ];
    let target = prop_oneof![
        "(http://orders)?(/[a%2eEfF./;*]{0,6}){0,4}(\\?[ -~]{0,6})?",
        "[ -~]{0,20}"
    ];
    let version = prop_oneof![Just(Version::HTTP_10), Just(Version::HTTP_11), Just(Version::HTTP_2)];
    (version, target, vec((name, value), 0..8)).prop_map(|(version, target, headers)| {
        let request = Request::builder().version(version).method("GET").uri(target);
        let add = |request: http::request::Builder, (name, value): (String, String)| request.header(name, value);
        let request = headers.into_iter().fold(request, add).body(()).ok()?;
        Some(request.into_parts().0)
    })
}

proptest! {
    /// Whatever comes, it is refused, or sent on in the one form.
    #[test]
    fn what_is_sent_on_is_clean(parts in any_request()) {
        if let Some(mut parts) = parts
            && let Ok(facts) = clean(&mut parts)
        {
            let path = parts.uri.path();
            prop_assert_eq!(normalise(path).unwrap(), path);
            prop_assert_eq!(facts.path(), path);
            prop_assert!(!parts.headers.keys().any(is_ours));
            prop_assert!(!parts.headers.contains_key("keep-alive"));
            prop_assert!(parts.headers.get_all("host").iter().count() <= 1);
            let upgrade = parts.headers.get("upgrade").map(|value| value.to_str().unwrap().to_lowercase());
            prop_assert!(!upgrade.is_some_and(|protocol| protocol.contains("h2c")));
            let mut again = parts.clone();
            if let Ok(second) = clean(&mut again) {
                prop_assert_eq!(second.headers, facts.headers);
                prop_assert_eq!(again.uri, parts.uri);
            }
        }
    }
}
