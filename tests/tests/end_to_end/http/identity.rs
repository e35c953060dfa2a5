//! The app learns who calls from the sidecar alone.

use super::{answer, got_so_many, mesh, mesh_file};

#[test]
fn the_app_learns_who_calls_and_nobody_can_say_otherwise() {
    let mesh = mesh();
    answer(
        &mesh,
        "web",
        &[
            "--header",
            "X-Forwarded-Client-Cert: URI=spiffe://example.org/admin",
            "--header",
            "x_forwarded_client_cert: URI=spiffe://example.org/admin",
            "--header",
            "X-Hop: 1",
            "--header",
            "Connection: X-Forwarded-Client-Cert, X-Hop",
            "http://orders:8080/x",
        ],
    );
    let line = got_so_many(&mesh, 1).concat();
    assert!(
        !line.contains("admin") && !line.to_lowercase().contains("x-hop"),
        "{line}"
    );
    let (_, value) = line.split_once("x-forwarded-client-cert: ").unwrap();
    let value = value.split(" | ").next().unwrap();
    let parts: Vec<&str> = value.split(';').collect();
    let [by, hash, uri] = parts.as_slice() else {
        panic!("{value}")
    };
    assert_eq!(*by, "By=spiffe://example.org/orders");
    assert_eq!(*uri, "URI=spiffe://example.org/web");
    let hash = hash.strip_prefix("Hash=").unwrap();
    assert!(
        hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{hash}"
    );
    assert_eq!(line.matches("forwarded").count(), 1, "{line}");
}

#[test]
fn an_app_can_not_speak_for_the_sidecar() {
    let mesh = mesh();
    let liar = answer(&mesh, "web", &["http://orders:8080/liar"]);
    assert!(
        liar.starts_with("HTTP/1.1 200") && !liar.contains("watchword-denied"),
        "{liar}"
    );
}

#[test]
fn a_workload_that_calls_itself_is_judged_request_by_request() {
    let policies = "name: orders\nservice: spiffe://example.org/orders\nallow:\n  - name: itself\n    from: \
                    [spiffe://example.org/orders]\n    http: [{methods: [GET]}]\n";
    let mesh = mesh_file("", policies).up().unwrap();
    for url in ["http://orders:8080/me", "http://orders-1:8080/me"] {
        let itself = answer(&mesh, "orders", &[url]);
        assert!(itself.starts_with("HTTP/1.1 200"), "{itself}");
        assert!(itself.contains("URI=spiffe://example.org/orders"), "{itself}");
        let denied = answer(&mesh, "orders", &["--request", "DELETE", url]);
        assert!(denied.contains("watchword-denied: orders/no-allow-rule"), "{denied}");
    }
}

#[test]
fn a_connection_to_the_app_serves_several_calls_of_one_caller_and_never_anothers() {
    let mesh = mesh();
    for number in 0..5 {
        for (service, folder) in [("web", "w"), ("lab", "lab")] {
            let url = format!("http://orders:8080/{folder}/{number}");
            assert!(answer(&mesh, service, &["-4", &url]).starts_with("HTTP/1.1 200"));
        }
    }
    got_so_many(&mesh, 10);
    // Address, port and path of each.
    let text = mesh.output().text();
    let lines = text.lines().filter_map(|line| Some(line.split_once("PEER ")?.1));
    let seen: Vec<Vec<&str>> = lines.map(|line| line.split(' ').collect()).collect();
    let of = |folder: &str| -> Vec<(&str, &str)> {
        let of_it = seen.iter().filter(|line| line[2].starts_with(folder));
        of_it.map(|line| (line[0], line[1])).collect()
    };
    let (web, lab) = (of("/w/"), of("/lab/"));
    assert_eq!((web.len(), lab.len()), (5, 5), "{seen:?}");
    assert!(!web.iter().any(|peer| lab.contains(peer)), "{seen:?}");
    for calls in [web, lab] {
        assert!(
            calls.windows(2).any(|two| two[0] == two[1]),
            "none was used again: {seen:?}"
        );
    }
}
