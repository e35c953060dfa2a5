//! Bodies, trailers, and what else belongs to a request, on both sides as if
//! nobody stood in between.

use super::{answer, got_so_many, mesh, raw};

#[test]
fn bodies_of_every_form_arrive_whole() {
    let mesh = mesh();
    let table = [
        (
            "POST /a HTTP/1.1\r\nHost: o\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
            5,
        ),
        (
            "POST /b HTTP/1.1\r\nHost: o\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            5,
        ),
        (
            "POST /c HTTP/1.1\r\nHost: o\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            0,
        ),
        ("GET /d HTTP/1.0\r\n\r\n", 0),
        ("OPTIONS * HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n", 0),
    ];
    for (request, length) in table {
        let answer = raw(&mesh, request.as_bytes());
        assert!(
            answer.ends_with(&format!(" | body {length}\n")),
            "{request:?}: {answer}"
        );
    }
    let head = raw(&mesh, b"HEAD /e HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n");
    assert!(
        head.to_lowercase().contains("content-length: ") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
}

#[test]
fn a_client_that_ends_its_half_gets_its_answer() {
    let mesh = mesh();
    let call = "import socket\nstream = socket.create_connection(('orders', 8080), timeout=20)\n\
                stream.sendall(b'GET /half HTTP/1.1\\r\\nHost: o\\r\\n\\r\\n')\nstream.shutdown(socket.SHUT_WR)\n\
                answer = b''\nwhile piece := stream.recv(65536): answer += piece\nprint(answer.decode())";
    let answer = mesh.exec_ok("web", &["python3", "-c", call]).unwrap();
    assert!(answer.contains("GET /half HTTP/1.1"), "{answer}");
}

#[test]
fn trailers_travel_both_ways_but_for_those_that_lie() {
    let mesh = mesh();
    let request = b"POST /t HTTP/1.1\r\nHost: o\r\nTrailer: checksum\r\nTransfer-Encoding: chunked\r\nConnection: \
                    close\r\n\r\n1\r\na\r\n0\r\nChecksum: 1\r\nX-Forwarded-Client-Cert: a\r\n\r\n";
    let answer = raw(&mesh, request).to_lowercase();
    assert!(answer.contains("| checksum: 1 |"), "{answer}");
    assert!(!answer.contains("client-cert: a"), "{answer}");
    let request = b"GET /trailers HTTP/1.1\r\nHost: o\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n";
    let answer = raw(&mesh, request).to_lowercase();
    assert!(answer.contains("\r\nchecksum: 4711\r\n"), "{answer}");
    assert!(!answer.contains("client-cert: x"), "{answer}");
}

#[test]
fn a_body_is_asked_for_by_the_app_and_not_before() {
    let mesh = mesh();
    let body = "a".repeat(3_000_000);
    let path = mesh.file().write("body", &body).unwrap();
    let upload = |url: &str| {
        let data = format!("@{}", path.display());
        let arguments = [
            "--header",
            "Expect: 100-continue",
            "--expect100-timeout",
            "20",
            "--data-binary",
            &data,
            url,
        ];
        answer(&mesh, "web", &arguments)
    };
    let wanted = upload("http://orders:8080/wanted");
    assert!(
        wanted.starts_with("HTTP/1.1 100 Continue") && wanted.contains("| body 3000000"),
        "{wanted}"
    );
    let unwanted = upload("http://orders:8080/unwanted");
    assert!(unwanted.starts_with("HTTP/1.1 401"), "{unwanted}");
    let denied = upload("http://orders:8080/admin");
    assert!(denied.starts_with("HTTP/1.1 403"), "{denied}");
    got_so_many(&mesh, 2);
}

#[test]
fn an_answer_that_breaks_off_never_looks_whole() {
    let mesh = mesh();
    // Without a length, only the end of the connection tells.
    let torn = raw(&mesh, b"GET /torn HTTP/1.0\r\n\r\n");
    assert!(torn.ends_with("RESET"), "{torn}");
    let torn = raw(&mesh, b"GET /torn HTTP/1.1\r\nHost: o\r\n\r\n");
    assert!(torn.ends_with("RESET") || !torn.contains("\r\n0\r\n"), "{torn}");
}

#[test]
fn a_slow_reader_makes_the_app_wait_and_not_the_sidecar_grow() {
    let mesh = mesh();
    let read = "import socket, time\nstream = socket.create_connection(('orders', 8080), timeout=20)\n\
                stream.sendall(b'GET /endless HTTP/1.1\\r\\nHost: o\\r\\n\\r\\n')\n\
                for _ in range(10): assert stream.recv(100); time.sleep(0.05)\nprint('read')";
    let before = crate::live::memory(&mesh, "orders-1")[0];
    assert_eq!(mesh.exec_ok("web", &["python3", "-c", read]).unwrap(), "read\n");
    // Its end is the app's.
    mesh.output()
        .wait_for("the app to learn that the caller has gone", |line| {
            line.contains("LOST")
        })
        .unwrap();
    let after = crate::live::memory(&mesh, "orders-1")[0];
    assert!(after < before + 8 * 1024, "{before} KiB, then {after}");
}
