//! A flood of callers that prove nothing: it costs them, not the others.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use watchword_tests::{Mesh, Output, wait_until};

use crate::apps::{curl, mesh};
use crate::live::{Live, memory};
use crate::strangers::{address, counter, on_the_switch};

const HELLOS: u64 = 100_000;
/// More than may wait.
const SILENT: u64 = 16_000;
/// Addresses that the attacker has: one alone would get a quarter of the slots.
const SOURCES: u8 = 8;
/// For the attacker on a machine that is busy with others.
const LONGEST: Duration = Duration::from_secs(400);
/// In KiB. A flood that is answered took 4.5 MiB; one who waits 7 KiB, and
/// 12,480 strangers may wait or shake hands.
const ROOM_FOR_A_FLOOD: u64 = 16 * 1024;
const ROOM_FOR_THOSE_WHO_WAIT: u64 = 12_480 * 10;

/// Sends COUNT ClientHellos to a sidecar from several processes, hundreds at
/// once, each waiting for the first byte of the answer; or, if it is to HOLD,
/// keeps them all open without a further word until its input ends.
const FLOOD: &str = r#"
import os, resource, socket, ssl, sys, threading
target, count, hold = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "hold"
sources = sys.argv[4:]
PROCESSES, THREADS = 4, 64
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.minimum_version = ssl.TLSVersion.TLSv1_3
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.set_alpn_protocols(["watchword/1"])
outgoing = ssl.MemoryBIO()
try:
    context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
except ssl.SSLWantReadError:
    hello = outgoing.read()
IP_BIND_ADDRESS_NO_PORT = 24
held, lock = [], threading.Lock()

def one(number):
    stream = socket.socket()
    stream.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    stream.settimeout(50)
    stream.bind((sources[number % len(sources)], 0))
    try:
        stream.connect((target, 8080 + number % 16))
        stream.sendall(hello)
        if hold:
            held.append(stream)
            return 0
        answered = len(stream.recv(1))
    except OSError:
        answered = 0
    stream.close()
    return answered

def several(numbers, totals):
    answered = sum(map(one, numbers))
    with lock:
        totals[0] += answered

def process(first):
    totals = [0]
    threads = [threading.Thread(target=several, args=(range(first + PROCESSES * t, count, PROCESSES * THREADS), totals)) for t in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One write: print() makes several where Python is told not to buffer, and
    # the processes share the pipe.
    os.write(1, f"answered {totals[0]} held {len(held)}\n".encode())
    sys.stdin.read()

children = []
for first in range(PROCESSES):
    child = os.fork()
    if not child:
        process(first)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"#;

/// The attacker; dropped, it is gone.
struct Flood {
    child: Child,
    output: Output,
}

impl Flood {
    fn start(mesh: &Mesh, count: u64, how: &str) -> Self {
        let target = address(mesh, "orders-1", 0);
        let count = count.to_string();
        let sources: Vec<_> = (1..=SOURCES).map(|number| source(&target, number)).collect();
        let mut command = vec!["python3", "-c", FLOOD, &target, &count, how];
        command.extend(sources.iter().map(String::as_str));
        let mut command = on_the_switch(mesh, &command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = Output::of(&mut child);
        Self { child, output }
    }

    /// The lines of the processes that have sent everything.
    fn done(&self) -> Vec<String> {
        let text = self.output.text();
        text.lines().map(str::to_owned).collect()
    }

    /// How many were answered.
    fn answered(&self) -> u64 {
        let number = |line: &String| line.split(' ').nth(1).and_then(|number| number.parse::<u64>().ok());
        let counted: Option<u64> = self.done().iter().map(number).sum();
        counted.unwrap_or_else(|| panic!("the attacker said {:?}", self.output.text()))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // Its processes end when their input does.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// An address of the attacker, beside the one that it attacks.
fn source(target: &str, number: u8) -> String {
    let octets: Vec<_> = target.split('.').collect();
    format!("{}.{}.250.{number}", octets[0], octets[1])
}

#[allow(clippy::disallowed_methods, reason = "measures, asserts nothing by it")]
fn clock() -> Instant {
    Instant::now()
}

#[test]
#[allow(clippy::print_stdout, reason = "says what was measured")]
fn a_hundred_thousand_client_hellos_and_thousands_who_wait_harm_nobody() {
    let mesh = mesh();
    let target = address(&mesh, "orders-1", 0);
    for number in 1..=SOURCES {
        let own = format!("{}/16", source(&target, number));
        watchword_tests::run(&mut on_the_switch(
            &mesh,
            &["ip", "address", "add", &own, "dev", "mesh"],
        ))
        .unwrap();
    }
    let live = Live::start(&mesh);
    let call = || {
        let began = clock();
        mesh.exec_ok("web", &curl(&["-4", "http://orders:8080/"])).unwrap();
        began.elapsed()
    };
    let before = memory(&mesh, "orders-1");
    let began = clock();

    let mut slowest = Duration::ZERO;
    let mut calls = 0;
    let flood = Flood::start(&mesh, HELLOS, "go");
    // It ends by itself, and takes as long as the machine needs.
    while flood.done().len() < 4 {
        slowest = slowest.max(call());
        calls += 1;
        assert!(began.elapsed() < LONGEST, "the attacker said {:?}", flood.output.text());
    }
    let took = began.elapsed();
    let answered = flood.answered();
    drop(flood);
    println!("{HELLOS} ClientHellos in {took:?}, {answered} answered; {calls} calls, the slowest in {slowest:?}");
    let after = memory(&mesh, "orders-1");
    println!("memory in KiB before {before:?}, after {after:?}");
    assert_eq!(answered, HELLOS);
    assert!(after[1] < before[0] + ROOM_FOR_A_FLOOD, "{before:?} grew to {after:?}");

    // Now they fill every slot and every place, and say nothing.
    let silent = Flood::start(&mesh, SILENT, "hold");
    wait_until("all who are silent", || silent.done().len() == 4).unwrap();
    let limit = ["watchword_connections_total", "reason=\"limit\""];
    wait_until("the last place to be taken", || counter(&mesh, "orders-1", &limit) > 0).unwrap();
    let slowest = (0..10).map(|_| call()).max().unwrap();
    let most = memory(&mesh, "orders-1");
    println!("beside {SILENT} who wait, the slowest of 10 calls took {slowest:?}; memory in KiB {most:?}");
    println!("{} beyond the last place", counter(&mesh, "orders-1", &limit));
    let room = before[0] + ROOM_FOR_A_FLOOD + ROOM_FOR_THOSE_WHO_WAIT;
    assert!(most[1] < room, "{before:?} grew to {most:?}");
    drop(silent);
    call();
    println!("{}", live.end());
    // Twenty a second and one that sums up, where there were a hundred thousand.
    let text = mesh.output().text();
    let strangers = text
        .lines()
        .filter(|line| line.contains("client=10.") && line.contains(".250."));
    let (lines, seconds) = (strangers.count(), began.elapsed().as_secs_f64());
    println!("{lines} lines about strangers in {seconds} s");
    assert!(lines < 20_000 && text.contains("left_out="));
}
