//! Redis: pipelines, many short connections, and a subscriber that waits.

use std::process::Stdio;

use watchword_tests::{Mesh, Output};

use super::{mesh_file, refused_by_name};

const REDIS: &str = "\
cache:
  run: [redis-server, --port, '6379', --save, '', --protected-mode, 'no', --bind, 0.0.0.0, '::']
  ports: {6379: tcp}
  healthy: {port: 6379}
";

/// It counts what is answered; what is not, it waits for or says.
fn benchmark(mesh: &Mesh, words: &[&str]) {
    let mut command = vec!["timeout", "120", "redis-benchmark", "-h", "cache", "--csv"];
    command.extend(words);
    let said = mesh.exec_ok("web", &command).unwrap();
    for test in ["\"SET\"", "\"GET\""] {
        assert!(said.contains(test), "{said}");
    }
    assert!(!said.contains("rror"), "{said}");
}

fn redis_cli(words: &[&'static str]) -> Vec<&'static str> {
    [&["redis-cli", "-h", "cache", "-e"], words].concat()
}

#[test]
fn redis_serves_pipelines_large_values_and_short_connections_and_refuses_the_lab() {
    let mesh = mesh_file("certificates: {ttl: 5s}", REDIS).log("warn").up().unwrap();
    let pipelined = ["-n", "200000", "-c", "20", "-P", "16", "-t", "set,get"];
    benchmark(&mesh, &pipelined);
    let large = ["-n", "400", "-c", "4", "-d", "1000000", "-t", "set,get"];
    benchmark(&mesh, &large);
    let short = ["-n", "3000", "-c", "20", "-k", "0", "-t", "set,get"];
    benchmark(&mesh, &short);
    refused_by_name(&mesh, &redis_cli(&["PING"]));
}

#[test]
fn a_redis_subscriber_hears_every_message_while_certificates_are_replaced() {
    let mesh = mesh_file("certificates: {ttl: 4s}", REDIS).up().unwrap();
    let before = crate::tunnels::generation(&mesh, "cache-1");
    let mut subscribe = mesh.exec_command("web", &redis_cli(&["SUBSCRIBE", "news"])).unwrap();
    let mut subscriber = subscribe.stdout(Stdio::piped()).spawn().unwrap();
    let heard = Output::of(&mut subscriber);
    heard
        .wait_for("the subscription", |line| line.contains("subscribe"))
        .unwrap();
    let publish = "import socket, sys, time\n\
        s = socket.create_connection(('cache', 6379), timeout=20)\n\
        for n in range(200):\n    s.sendall(b'PUBLISH news message-%d\\r\\n' % n)\n    assert s.recv(100) == b':1\\r\\n'\n    time.sleep(0.05)\n";
    mesh.exec_ok("web", &["python3", "-c", publish]).unwrap();
    heard
        .wait_for("the last message", |line| line == "message-199")
        .unwrap();
    let messages: Vec<_> = heard
        .text()
        .lines()
        .filter(|line| line.starts_with("message-"))
        .map(str::to_owned)
        .collect();
    let expected: Vec<_> = (0..200).map(|n| format!("message-{n}")).collect();
    assert_eq!(messages, expected);
    assert!(crate::tunnels::generation(&mesh, "cache-1") > before + 2);
    subscriber.kill().unwrap();
    subscriber.wait().unwrap();
}
