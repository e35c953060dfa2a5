//! What a workload that was taken over can say on a tunnel: it has a valid
//! identity, and breaks the protocol. Its tunnel ends with a reason; nobody
//! else notices.

use std::fmt::Write as _;

use serde_json::Value;
use watchword_tests::{Mesh, MeshFile};

use crate::apps::{POLICIES, SERVER, SERVICES, curl};
use crate::authority::{Authority, write};
use crate::live::{Live, memory};
use crate::strangers::{address, counter, on_the_switch, source_port};

const OPEN: u8 = 1;
const OPENED: u8 = 2;
const DATA: u8 = 5;
const FIN: u8 = 6;
const RESET: u8 = 7;
const GOAWAY: u8 = 8;
const VOUCH: u8 = 9;

/// As docs/wire.md has it, independent of the crate that is under test.
fn header(kind: u8, length: u32, stream: u32) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(&length.to_be_bytes()[1..]);
    bytes.extend(stream.to_be_bytes());
    bytes
}

fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(kind, u32::try_from(payload.len()).unwrap(), stream);
    bytes.extend(payload);
    bytes
}

/// OPEN with texts of these lengths.
fn open(stream: u32, traceparent: u8, requested: u8) -> Vec<u8> {
    let mut payload = Vec::new();
    for (field, length) in [(1, traceparent), (2, requested)] {
        payload.push(field << 3 | 2);
        // A varint: beyond 127 it takes two bytes.
        if length > 127 {
            payload.extend([length, 1]);
        } else {
            payload.push(length);
        }
        payload.extend(std::iter::repeat_n(b'x', length.into()));
    }
    frame(OPEN, stream, &payload)
}

enum Step {
    Send(Vec<u8>),
    /// A frame of this type for this stream.
    Await(u8, u32),
}
use Step::{Await, Send};

enum End {
    /// Closed for a reason, which is logged with these words, and the attacker is told so by
    /// GOAWAY where nothing of it is left unread.
    Violation {
        reason: &'static str,
        says: &'static str,
        told: bool,
    },
    /// Closed in order, without an answer.
    Closed,
    /// All steps were taken, and nothing is wrong.
    GoesOn,
}

struct Case {
    name: &'static str,
    caller: &'static str,
    service: &'static str,
    alpn: &'static str,
    steps: Vec<Step>,
    end: End,
}

fn case(name: &'static str, steps: Vec<Step>, end: End) -> Case {
    Case {
        name,
        caller: "web",
        service: "orders",
        alpn: "watchword/1",
        steps,
        end,
    }
}

fn protocol(says: &'static str) -> End {
    End::Violation {
        reason: "protocol",
        says,
        told: true,
    }
}

/// One write and the violation that it is.
fn broken(name: &'static str, bytes: Vec<u8>, says: &'static str) -> Case {
    case(name, vec![Send(bytes)], protocol(says))
}

/// The same after OPENED of stream 1.
fn broken_within(name: &'static str, bytes: Vec<u8>, says: &'static str) -> Case {
    let steps = vec![Send(frame(OPEN, 1, &[])), Await(OPENED, 1), Send(bytes)];
    case(name, steps, protocol(says))
}

fn slow(name: &'static str, bytes: Vec<u8>) -> Case {
    let end = End::Violation {
        reason: "slow-frame",
        says: "not finished within 10 s",
        told: false,
    };
    case(name, vec![Send(bytes)], end)
}

fn violations() -> Vec<Case> {
    [no_frames(), out_of_turn(), too_much(), on_lanes()]
        .into_iter()
        .flatten()
        .collect()
}

/// What is no frame, whenever it comes.
fn no_frames() -> Vec<Case> {
    vec![
        broken("a type above all", frame(11, 0, &[]), "unknown frame type 11"),
        broken(
            "another protocol",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            "unknown frame type 71",
        ),
        broken("an OPEN too long", header(OPEN, 4_097, 1), "OPEN of 4097 bytes"),
        broken(
            "a DATA as long as can be said",
            header(DATA, 0xff_ffff, 1),
            "DATA of 16777215 bytes",
        ),
        broken("a VOUCH too long", header(VOUCH, 65_537, 0), "VOUCH of 65537 bytes"),
        broken("DATA without a byte", header(DATA, 0, 1), "DATA without a byte"),
        broken("OPEN on stream 0", frame(OPEN, 0, &[]), "OPEN on stream 0"),
        broken("GOAWAY on a stream", frame(GOAWAY, 1, &[]), "GOAWAY on stream 1"),
        broken(
            "an OPEN that is no message",
            frame(OPEN, 1, &[0xff; 20]),
            "malformed control frame",
        ),
        broken(
            "a text beyond its bound",
            open(1, 56, 0),
            "malformed control frame: traceparent is too long",
        ),
        broken(
            "the other text beyond its bound",
            open(1, 0, 129),
            "malformed control frame: requested is too long",
        ),
    ]
}

/// Frames that have another time.
fn out_of_turn() -> Vec<Case> {
    vec![
        broken(
            "DATA before OPEN",
            frame(DATA, 1, b"x"),
            "DATA for stream 1, which is not open",
        ),
        broken(
            "FIN before OPEN",
            frame(FIN, 1, &[]),
            "FIN for stream 1, which is not open",
        ),
        broken("a first stream that is not 1", frame(OPEN, 2, &[]), "OPEN for stream 2"),
        broken(
            "the server's own frame",
            frame(OPENED, 1, &[]),
            "OPENED from the wrong side",
        ),
        broken_within("OPEN inside an open stream", frame(OPEN, 2, &[]), "OPEN while Open"),
        broken_within(
            "a future stream",
            frame(DATA, 9, b"x"),
            "DATA for stream 9, which is not open (the latest is 1)",
        ),
        broken_within(
            "DATA behind FIN",
            [frame(FIN, 1, &[]), frame(DATA, 1, b"x")].concat(),
            "DATA while FinReceived",
        ),
        broken_within("VOUCH within a stream", frame(VOUCH, 0, &[]), "VOUCH while Open"),
    ]
}

/// What takes more room or time than there is.
fn too_much() -> Vec<Case> {
    let vouches = frame(VOUCH, 0, &[]).repeat(11);
    let early = [frame(OPEN, 1, &[]), frame(DATA, 1, &[7; 16_376]).repeat(5)].concat();
    vec![
        case(
            "eleven VOUCH",
            vec![Send(vouches)],
            End::Violation {
                reason: "protocol",
                says: "more than 10 VOUCH",
                told: false,
            },
        ),
        slow("a header that never ends", header(DATA, 1, 1)[..7].to_vec()),
        slow("a payload that never comes", header(OPEN, 100, 1)),
        Case {
            service: "stuck",
            ..case(
                "early DATA beyond 64 KiB",
                vec![Send(early)],
                End::Violation {
                    reason: "protocol",
                    says: "more than 65536 bytes of DATA before OPENED",
                    told: false,
                },
            )
        },
        Case {
            caller: "lab",
            ..case(
                "silence after DENIED",
                vec![Send(frame(OPEN, 1, &[]))],
                End::Violation {
                    reason: "no-end",
                    says: "did not end its half",
                    told: false,
                },
            )
        },
    ]
}

/// On a connection that many tunnels share.
fn on_lanes() -> Vec<Case> {
    // Frames of lanes have the same header as those of streams.
    const OPEN_LANE: u8 = 1;
    const DATA_OF_LANE: u8 = 2;
    const GRANT: u8 = 5;
    let lane = frame(OPEN_LANE, 1, &[]);
    let with = |bytes: &[u8]| [&lane, bytes].concat();
    let lanes: Vec<u8> = (1..=129).flat_map(|lane| frame(OPEN_LANE, lane, &[])).collect();
    let violations = [
        ("no frame of a lane", b"GET / HTTP/1.1\r\n\r\n".to_vec(), "too long"),
        (
            "a lane out of turn",
            frame(OPEN_LANE, 3, &[]),
            "many lanes: a lane out of turn",
        ),
        ("too many lanes", lanes, "many lanes: too many lanes"),
        (
            "bytes of no lane",
            frame(DATA_OF_LANE, 1, b"x"),
            "many lanes: a frame of a lane that was never opened",
        ),
        (
            "a grant beyond all bounds",
            with(&frame(GRANT, 1, &[0xff; 4])),
            "many lanes: more is granted than any lane may have",
        ),
    ];
    let told = |(name, bytes, says)| {
        let end = End::Violation {
            reason: "protocol",
            says,
            told: false,
        };
        case(name, vec![Send(bytes)], end)
    };
    let slow = slow("a frame of a lane that never ends", with(&header(DATA_OF_LANE, 100, 1)));
    let cases = violations.into_iter().map(told).chain([slow]);
    let on_lanes = cases.map(|case| Case {
        alpn: "watchword/1+lanes",
        ..case
    });
    on_lanes.collect()
}

/// Tiresome, and allowed.
fn nuisances() -> Vec<Case> {
    let farewell = [frame(GOAWAY, 0, &[]), frame(OPEN, 1, &[]), frame(77, 3, b"x")].concat();
    let get = b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n";
    let old = [
        frame(DATA, 1, b"of the old one"),
        frame(FIN, 1, &[]),
        frame(DATA, 2, get),
    ]
    .concat();
    let resets = frame(RESET, 1, &[]).repeat(20_000);
    let mut opens = Vec::new();
    for stream in 1..=300 {
        opens.extend(open(stream, 55, 128));
        opens.extend(frame(RESET, stream, &[]));
    }
    let first = || Send([frame(OPEN, 1, &[]), frame(RESET, 1, &[])].concat());
    let open_2 = || Send(frame(OPEN, 2, &[]));
    vec![
        case("frames behind GOAWAY", vec![Send(farewell)], End::Closed),
        case(
            "frames of an old stream",
            vec![
                first(),
                Await(RESET, 1),
                open_2(),
                Await(OPENED, 2),
                Send(old),
                Await(DATA, 2),
            ],
            End::GoesOn,
        ),
        case(
            "a flood of RESET",
            vec![first(), Await(RESET, 1), Send(resets), open_2(), Await(OPENED, 2)],
            End::GoesOn,
        ),
        case(
            "a flood of OPEN with texts at their bounds",
            vec![Send(opens), Send(frame(OPEN, 301, &[])), Await(OPENED, 301)],
            End::GoesOn,
        ),
    ]
}

/// Takes the steps of a case, from a port of its own; prints the frames that
/// came, and whether the tunnel ended.
const ATTACKER: &str = r#"
import json, select, socket, ssl, sys, time
own_port, address, certificate, alpn = sys.argv[1:5]
steps = sys.argv[5:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.set_alpn_protocols([alpn])
context.load_cert_chain(certificate)
host, port = address.rsplit(",", 1)
stream = context.wrap_socket(socket.create_connection((host, int(port)), 50, ("", int(own_port))))
stream.setblocking(False)
frames, buffer, pending, ended, waits = [], b"", b"", None, False
until = time.monotonic() + 50
while ended is None and time.monotonic() < until:
    if not pending and steps:
        what, _, rest = steps[0].partition(":")
        if what == "send":
            pending = open(rest, "rb").read()
            steps.pop(0)
        elif what == "await" and [int(n) for n in rest.split(",")] in [f[:2] for f in frames]:
            steps.pop(0)
        elif what == "stop":
            break
    wants = [stream] if pending else []
    select.select([stream], wants, [], 0.02 if steps else 1)
    try:
        if pending:
            pending = pending[stream.send(pending[:16000]):]
    except ssl.SSLWantWriteError:
        pass
    except OSError:
        pending = b""
    try:
        while True:
            data = stream.recv(65536)
            if not data:
                ended = "closed"
                break
            buffer += data
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        pass
    except OSError:
        ended = "reset"
    while len(buffer) >= 8:
        length, number = int.from_bytes(buffer[1:4], "big"), int.from_bytes(buffer[4:8], "big")
        if len(buffer) < 8 + length:
            break
        frames.append([buffer[0], number, buffer[8:8 + length].hex()])
        buffer = buffer[8 + length:]
print(json.dumps({"port": int(own_port), "frames": frames, "ended": ended, "left": len(steps)}))
"#;

struct Certificates {
    web: String,
    lab: String,
}

fn carry_out(mesh: &Mesh, number: usize, case: &Case, certificates: &Certificates) -> Value {
    let port = if case.service == "stuck" { 7000 } else { 8080 };
    let target = format!("{},{port}", address(mesh, &format!("{}-1", case.service), 0));
    let certificate = match case.caller {
        "lab" => &certificates.lab,
        _ => &certificates.web,
    };
    let mut steps = Vec::new();
    for (step, what) in case.steps.iter().enumerate() {
        steps.push(match what {
            Send(bytes) => {
                let path = mesh.file().folder().join(format!("case-{number}-{step}"));
                std::fs::write(&path, bytes).unwrap();
                format!("send:{}", path.display())
            }
            Await(kind, stream) => format!("await:{kind},{stream}"),
        });
    }
    let last = if matches!(case.end, End::GoesOn) { "stop" } else { "end" };
    let own_port = source_port().to_string();
    let mut command = vec!["python3", "-c", ATTACKER, &own_port, &target, certificate, case.alpn];
    command.extend(steps.iter().map(String::as_str));
    command.push(last);
    let printed = watchword_tests::run(&mut on_the_switch(mesh, &command)).unwrap();
    serde_json::from_str(&printed).unwrap()
}

fn judge(mesh: &Mesh, case: &Case, outcome: &Value) -> Result<(), String> {
    let frames = outcome["frames"].as_array().unwrap();
    let ended = outcome["ended"].as_str();
    let port = &outcome["port"];
    match &case.end {
        End::Violation { reason, says, told } => {
            if ended.is_none() {
                return Err("the tunnel was not closed".into());
            }
            // GOAWAY with REASON_PROTOCOL, which is field 1 with 7.
            let goaway = frames.last().is_some_and(|last| {
                last[0] == GOAWAY && last[1] == 0 && last[2].as_str().is_some_and(|hex| hex.starts_with("0807"))
            });
            if *told && !goaway {
                return Err("no GOAWAY with the reason came".into());
            }
            let (from, wanted) = (format!(":{port} "), format!("reason={reason}"));
            mesh.output()
                .wait_for("the reason", |line| {
                    line.contains("WARN ") && line.contains(&from) && line.contains(&wanted) && line.contains(says)
                })
                .map_err(|_| format!("no line says {wanted} and {says:?} of port {port}"))?;
        }
        End::Closed if ended != Some("closed") || !frames.is_empty() => return Err("not closed in order".into()),
        End::GoesOn if ended.is_some() || outcome["left"] != 1 => return Err("the tunnel did not go on".into()),
        End::Closed | End::GoesOn => {}
    }
    Ok(())
}

/// Listens, but its queue is full: whoever dials it waits.
const STUCK: &str = r#"
import socket, time
listener = socket.socket(socket.AF_INET6)
listener.bind(("::", 7000))
listener.listen(0)
queue = [socket.socket(socket.AF_INET6) for _ in range(4)]
for waiting in queue:
    waiting.setblocking(False)
    waiting.connect_ex(("::1", 7000))
print("the queue is full", flush=True)
time.sleep(10**6)
"#;

fn mesh_with_stuck_service() -> Mesh {
    let services = format!("{SERVICES}stuck: {{run: [python3, stuck.py], ports: {{7000: tcp}}}}\n");
    let policies = format!(
        "{POLICIES}---\nname: stuck\nservice: spiffe://example.org/stuck\nallow:\n  - {{from: [spiffe://example.org/web]}}\n"
    );
    let file = MeshFile::new(&services, &policies).unwrap();
    file.write("server.py", SERVER).unwrap();
    file.write("stuck.py", STUCK).unwrap();
    let mesh = file.up().unwrap();
    mesh.output()
        .wait_for("the stuck service", |line| line.contains("the queue is full"))
        .unwrap();
    mesh
}

#[test]
#[allow(clippy::print_stdout, reason = "says what was measured")]
fn each_bad_frame_ends_its_tunnel_with_a_reason_and_nobody_else_notices() {
    let mesh = mesh_with_stuck_service();
    let authority = Authority::of(&mesh);
    let leaf = |name: &str| authority.leaf(&format!("spiffe://example.org/{name}"), |_| {});
    let certificates = Certificates {
        web: write(&mesh, "web.pem", &leaf("web")),
        lab: write(&mesh, "lab.pem", &leaf("lab")),
    };
    let live = Live::start(&mesh);
    let before = memory(&mesh, "orders-1")[0];
    let mut cases = violations();
    let wrong = u64::try_from(cases.len()).unwrap();
    cases.extend(nuisances());
    // All at once: most of the time goes into waiting for deadlines.
    let outcomes: Vec<Value> = std::thread::scope(|scope| {
        let (mesh, certificates) = (&mesh, &certificates);
        let begin = |(number, case)| scope.spawn(move || carry_out(mesh, number, case, certificates));
        let running: Vec<_> = cases.iter().enumerate().map(begin).collect();
        mesh.exec_ok("web", &curl(&["http://orders:8080/"])).unwrap();
        running.into_iter().map(|case| case.join().unwrap()).collect()
    });
    let mut complaints = String::new();
    for (case, outcome) in cases.iter().zip(&outcomes) {
        if let Err(complaint) = judge(&mesh, case, outcome) {
            let _ = writeln!(complaints, "{}: {complaint}; {outcome}", case.name);
        }
    }
    assert!(complaints.is_empty(), "{complaints}\n{}", mesh.output().text());
    let counted: u64 = ["orders-1", "stuck-1"]
        .iter()
        .map(|name| counter(&mesh, name, &["watchword_tunnel_violations_total{"]))
        .sum();
    assert_eq!(counted, wrong);
    mesh.exec_ok("web", &curl(&["http://orders:8080/"])).unwrap();
    let most = memory(&mesh, "orders-1")[1];
    println!("{}; memory {before} KiB before, {most} KiB at most", live.end());
    assert!(most < before + 16 * 1024, "{before} KiB grew to {most} KiB");
}
