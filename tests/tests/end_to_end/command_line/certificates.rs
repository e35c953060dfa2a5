//! `cert view` and `bundle export`, held against OpenSSL.

use serde_json::Value;
use watchword_tests::{DEADLINE, openssl, wait_until};

use super::watchword;
use crate::apps::{complaint, mesh};

fn view(arguments: &[&str]) -> Value {
    let text = watchword_tests::run(watchword().args(["cert", "view", "-o", "json"]).args(arguments)).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn cert_view_shows_the_certificates_of_all_services_and_of_one() {
    let mesh = mesh();
    let name = mesh.file().name();
    let all = view(&["--mesh", name]);
    let sources: Vec<_> = all.as_array().unwrap().iter().map(|found| &found["source"]).collect();
    assert_eq!(sources, ["lab-1", "orders-1", "web-1"]);
    let one = view(&["--mesh", name, "orders"]);
    let leaf = &one[0]["certificates"][0];
    assert_eq!(leaf["spiffe_id"], "spiffe://example.org/orders");
    assert_eq!((&leaf["is_ca"], &leaf["key"]), (&false.into(), &"ECDSA P-256".into()));
    assert_eq!(leaf["signed_by_next"], true);
    assert_eq!(one[0]["certificates"][1]["is_ca"], true);
    let status = mesh.status().unwrap();
    let orders = status["replicas"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["replica"] == "orders-1")
        .unwrap();
    assert_eq!(
        (&leaf["serial"], &leaf["not_after"]),
        (&orders["serial"], &orders["not_after"])
    );
    let table = watchword_tests::run(watchword().args(["cert", "view", "--mesh", name])).unwrap();
    assert!(table.contains("spiffe://example.org/orders"), "{table}");
    let said = complaint(
        &watchword()
            .args(["cert", "view", "--mesh", name, "order"])
            .output()
            .unwrap(),
    );
    assert!(
        said.contains("no service `order`") && said.contains("orders-1"),
        "{said}"
    );
}

#[test]
fn cert_view_of_an_address_shows_a_servers_chain_and_says_that_nobody_verified_it() {
    let folder = tempfile::tempdir().unwrap();
    let (key, certificate) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
    openssl(
        &format!(
        "req -x509 -newkey rsa:2048 -nodes -keyout {} -out {} -days 3 -subj /CN=somebody -addext subjectAltName=DNS:a.example",
        key.display(),
        certificate.display()
        ),
        folder.path(),
    )
    .unwrap();
    let from_file = view(&[certificate.to_str().unwrap()]);
    let told = &from_file[0]["certificates"][0];
    assert_eq!(
        (&told["subject"], &told["key"]),
        (&"CN=somebody".into(), &"RSA 2048".into())
    );
    assert_eq!(told["names"], serde_json::json!(["DNS a.example"]));

    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut server = std::process::Command::new("openssl")
        .args([
            "s_server",
            "-quiet",
            "-tls1_3",
            "-accept",
            &format!("127.0.0.1:{port}"),
            "-key",
        ])
        .arg(&key)
        .arg("-cert")
        .arg(&certificate)
        .stdin(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let address = format!("127.0.0.1:{port}");
    wait_until("the server to listen", || {
        std::net::TcpStream::connect(&address).is_ok()
    })
    .unwrap();
    let shown = view(&[&address]);
    let text = watchword_tests::run(watchword().args(["cert", "view", &address])).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(shown[0]["verified"], false);
    let seen = &shown[0]["certificates"][0];
    for key in ["serial", "subject", "key", "names", "not_after"] {
        assert_eq!(seen[key], told[key], "{key}");
    }
    assert!(
        text.contains("nothing was verified") && text.contains("CN=somebody"),
        "{text}"
    );
    let said = complaint(&watchword().args(["cert", "view", &address]).output().unwrap());
    assert!(said.contains(&format!("cannot connect to {address}")), "{said}");
}

#[test]
fn cert_view_gives_up_on_a_server_that_does_not_speak() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let begun = std::time::Instant::now();
    let said = complaint(&watchword().args(["cert", "view", &address]).output().unwrap());
    assert!(said.contains("no handshake within 5 s"), "{said}");
    assert!(begun.elapsed() < DEADLINE);
}

#[test]
fn cert_view_says_what_is_wrong_with_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    for (text, expected) in [
        ("hello\n", "there is no certificate"),
        (
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
            "is broken",
        ),
        (
            "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
            "certificate 1 can't be read",
        ),
        ("0nonsense", "certificate 1 can't be read"),
    ] {
        std::fs::write(&file, text).unwrap();
        let said = complaint(&watchword().args(["cert", "view"]).arg(&file).output().unwrap());
        assert!(
            said.contains(expected) && said.contains(file.to_str().unwrap()),
            "{said}"
        );
    }
}

#[test]
fn bundle_export_gives_the_roots_that_services_are_verified_with() {
    let mesh = mesh();
    let name = mesh.file().name();
    let export = |arguments: &[&str]| {
        watchword_tests::run(watchword().args(["bundle", "export", "--mesh", name]).args(arguments)).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let (pem, leaf) = (folder.path().join("bundle.pem"), folder.path().join("chain.pem"));
    assert_eq!(export(&["--out", pem.to_str().unwrap()]), "");
    assert_eq!(export(&[]), std::fs::read_to_string(&pem).unwrap());
    // What a sidecar shows leads to it.
    let sidecar = mesh.run_folder().unwrap().join("orders-1/proxy-admin.sock");
    let page = std::process::Command::new("curl")
        .args(["--silent", "--unix-socket"])
        .arg(sidecar)
        .arg("http://sidecar/certs")
        .output()
        .unwrap();
    let page: Value = serde_json::from_slice(&page.stdout).unwrap();
    let chain: String = page["chain"]
        .as_array()
        .unwrap()
        .iter()
        .map(|der| {
            format!(
                "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
                der.as_str().unwrap()
            )
        })
        .collect();
    std::fs::write(&leaf, wrapped(&chain)).unwrap();
    openssl(
        &format!(
            "verify -CAfile {} -untrusted {} {}",
            pem.display(),
            leaf.display(),
            leaf.display()
        ),
        folder.path(),
    )
    .unwrap();
    let set: Value = serde_json::from_str(&export(&["--format", "jwks"])).unwrap();
    let key = &set["keys"][0];
    assert_eq!((&key["use"], &key["kty"]), (&"x509-svid".into(), &"EC".into()));
    let body: String = std::fs::read_to_string(&pem)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    assert_eq!(key["x5c"][0], body);
    assert!(set["spiffe_sequence"].as_u64().unwrap() > 0);
}

/// OpenSSL wants lines of 64.
fn wrapped(pem: &str) -> String {
    let wrap = |line: &str| match line.starts_with("-----") {
        true => line.to_owned(),
        false => line
            .as_bytes()
            .chunks(64)
            .map(|part| String::from_utf8_lossy(part))
            .collect::<Vec<_>>()
            .join("\n"),
    };
    pem.lines().map(|line| wrap(line) + "\n").collect()
}
