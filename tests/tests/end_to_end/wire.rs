//! What somebody on the wire sees.

use std::io::Read;
use std::process::Stdio;

use crate::apps::{curl, mesh};

/// Counts the bytes that cross the switch, and those that hold a marker.
const CAPTURE: &str = r#"
import socket, sys
marker = sys.argv[1].encode()
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
packets.settimeout(0.2)
print("capturing", flush=True)
total = tls = markers = 0
last = b""
stop = False
import threading
def wait():
    global stop
    sys.stdin.readline()
    stop = True
threading.Thread(target=wait, daemon=True).start()
while True:
    try:
        packet = packets.recv(65536)
    except TimeoutError:
        # What came before the end was asked for is in the socket by then.
        if stop:
            break
        continue
    total += len(packet)
    # Also where it is split between two packets.
    markers += (last[-len(marker):] + packet).count(marker)
    tls += packet.count(b"\x17\x03\x03")
    last = packet
print(total, tls, markers, flush=True)
"#;

struct Capture {
    child: std::process::Child,
    stdout: std::process::ChildStdout,
}

impl Capture {
    fn start(mesh: &watchword_tests::Mesh, marker: &str) -> Self {
        let switch = mesh.record().unwrap()["switchPid"].as_i64().unwrap();
        let mut command = mesh.in_network_of(switch, &["python3", "-c", CAPTURE, marker]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut begun = [0; 10];
        stdout.read_exact(&mut begun).unwrap();
        assert_eq!(&begun, b"capturing\n");
        Self { child, stdout }
    }

    /// Bytes, TLS records with application data, markers.
    fn end(mut self) -> [u64; 3] {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        self.child.wait().unwrap();
        let numbers: Vec<u64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
        numbers.try_into().unwrap()
    }
}

#[test]
fn no_plaintext_crosses_between_the_namespaces() {
    const MARKER: &str = "in-the-clear-4711";
    let mesh = mesh();
    let capture = Capture::start(&mesh, MARKER);
    for family in ["-4", "-6"] {
        let body = mesh
            .exec_ok("web", &curl(&[family, &format!("http://orders:8080/{MARKER}")]))
            .unwrap();
        assert!(body.contains(MARKER));
    }
    let [bytes, records, markers] = capture.end();
    assert!(bytes > 4000 && records >= 4, "{bytes} bytes, {records} records");
    assert_eq!(markers, 0);
}

#[test]
fn the_capture_sees_plaintext_where_there_is_some() {
    const MARKER: &str = "in-the-clear-4712";
    let mesh = mesh();
    let record = mesh.record().unwrap();
    let switch = record["switchPid"].as_i64().unwrap();
    let address = record["replicas"][0]["addresses"][0].as_str().unwrap().to_owned();
    let capture = Capture::start(&mesh, MARKER);
    // The health port is not captured by interception: what is asked there is seen.
    let target = format!("http://{address}:15020/{MARKER}");
    let mut get = mesh.in_network_of(switch, &["curl", "--silent", "--max-time", "20", &target]);
    assert!(get.output().unwrap().status.success());
    let [_, _, markers] = capture.end();
    assert!(markers > 0);
}
