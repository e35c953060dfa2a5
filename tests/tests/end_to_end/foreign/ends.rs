//! How connections of foreign peers end: their own way while their
//! certificates last, and with these whatever they do.

use std::process::Stdio;

use watchword_tests::{Mesh, Output, binary};

use super::{mesh_file, printed, run};

/// Echoes, and says how each connection ends.
const ECHO: &str = r#"
import socket, threading
def serve(connection):
    try:
        while data := connection.recv(65536):
            connection.sendall(data)
        print("ECHO saw the end", flush=True)
        connection.sendall(b"and that was all")
        connection.close()
    except OSError as error:
        print("ECHO saw", type(error).__name__, flush=True)
listener = socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True)
print("ECHO listens", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

/// With an app that echoes on port 9000 of `web`, whose output is returned.
fn mesh() -> (Mesh, Output, Running) {
    let file = mesh_file("go: {run: [sleep, infinity], peer: mtls}\n");
    std::fs::copy(
        binary("watchword-spiffe").unwrap(),
        file.folder().join("watchword-spiffe"),
    )
    .unwrap();
    let mesh = file.up().unwrap();
    let mut echo = mesh.exec_command("web", &["python3", "-c", ECHO]).unwrap();
    let mut echo = echo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let output = Output::of(&mut echo);
    output.wait_for("the echo", |line| line == "ECHO listens").unwrap();
    (mesh, output, Running(echo))
}

struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn end(mesh: &Mesh, how: &str) -> String {
    let command = ["./watchword-spiffe", how, "web:9000", "spiffe://example.org/web"];
    printed(&run(mesh, "go", &command))
}

#[test]
fn a_foreign_connection_is_cut_when_its_certificates_end_and_the_app_does_not_take_it_for_the_end() {
    let (mesh, echo, _running) = mesh();
    let said = end(&mesh, "hold");
    // A reset, not an end; and the certificate had been replaced in between.
    assert_eq!(
        said,
        "open\nended by connection reset, after the certificate that it was made with: true\n"
    );
    echo.wait_for("the reset", |line| line == "ECHO saw ConnectionResetError")
        .unwrap();
    mesh.output()
        .wait_for("its line", |line| {
            line.contains("client_id=spiffe://example.org/go")
                && line.contains("reason=cut")
                && line.contains("detail=expired")
        })
        .unwrap();
}

#[test]
fn a_foreign_peers_end_of_data_is_an_end_and_its_vanishing_is_a_reset() {
    let (mesh, echo, _running) = mesh();
    assert_eq!(end(&mesh, "halve"), "ping\nand that was all\n");
    echo.wait_for("the end", |line| line == "ECHO saw the end").unwrap();
    assert_eq!(end(&mesh, "vanish"), "gone\n");
    echo.wait_for("the reset", |line| line == "ECHO saw ConnectionResetError")
        .unwrap();
}
