//! What an app sees of its connections is what it would see without us: each
//! case is played twice by the same programs, over a plain network and over a
//! mesh, and both sides' reports must be equal.

mod cases;
mod talk;
mod worlds;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::load::metric;
use cases::{CASES, Case, SILENT};
use nix::sys::resource::{Resource, getrlimit};
use talk::{PATIENCE, Peer, Talk, transcript};
use worlds::{CLOSED_PORT, PORTS, Plain, World, mesh};

/// How long a paused reader pauses, in seconds: longer than all intervals at
/// which a sidecar looks at what it does not read.
const PAUSE: &str = "WATCHWORD_TEST_PAUSE";
/// Bytes each way in the largest transfer.
const BULK: &str = "WATCHWORD_TEST_BULK";
/// Connections that are open at once.
const CROWD: &str = "WATCHWORD_TEST_CROWD";
/// How long a network is silent, in seconds: everybody outlives it.
const SILENCE: &str = "WATCHWORD_TEST_SILENCE";

fn from_environment(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect(name))
}

/// The reports of a case, and how long it took.
struct Played {
    name: &'static str,
    text: String,
    took: Duration,
}

/// Plays the cases of a port one after the other; the ports at the same time.
/// So many bytes are the largest transfer, and so many other connections to each
/// port are open meanwhile.
fn play(world: &dyn World, cases: &[Case], (bulk, others): (u64, usize)) -> Vec<Played> {
    let pause = Duration::from_secs(from_environment(PAUSE, 3));
    let bulk = bulk.to_string();
    let begin = |port| {
        let mut talk = Talk::begin(world, 0, port, pause);
        if others > 0 {
            let gathered = transcript(&mut talk, &format!("both crowd {others}"));
            assert_eq!(
                gathered.matches(&format!("{others} conversed")).count(),
                2,
                "{gathered}"
            );
        }
        talk
    };
    let on_port = |port: u16| -> Vec<_> {
        let mut talk = None;
        let mut is_stuck = false;
        let cases = cases.iter().filter(|case| PORTS[case.group % PORTS.len()] == port);
        cases
            .map(|case| {
                let talk = talk.get_or_insert_with(|| begin(port));
                let began = Instant::now();
                let text = if is_stuck {
                    // Each would wait for long, too, and tell nothing new.
                    "not played, since an earlier case got stuck\n".to_owned()
                } else {
                    transcript(talk, &case.script.replace("BULK", &bulk))
                };
                is_stuck |= text.contains("nothing\n") || text.contains("NO ANSWER");
                let (name, took) = (case.name, began.elapsed());
                Played { name, text, took }
            })
            .collect()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = PORTS.iter().map(|port| scope.spawn(|| on_port(*port))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn assert_equal(plain: &[Played], meshed: &[Played], log: &str) {
    let mut different = String::new();
    for (plain, meshed) in std::iter::zip(plain, meshed) {
        // Shown with --nocapture, and when it fails.
        eprintln!("{:9.3?} plain {:9.3?} mesh: {}", plain.took, meshed.took, plain.name);
        if plain.text != meshed.text {
            different += &format!(
                "{}\n--- without the mesh:\n{}--- with the mesh:\n{}\n",
                plain.name, plain.text, meshed.text
            );
        }
    }
    assert!(different.is_empty(), "{different}--- the mesh's log:\n{log}");
}

#[test]
fn what_both_apps_see_of_a_connection_is_the_same_with_and_without_the_mesh() {
    assert_fidelity((from_environment(BULK, 1 << 30), 0));
}

/// Others are open to each port meanwhile.
#[test]
fn what_both_apps_see_is_the_same_where_the_sidecars_share_a_connection_for_many() {
    assert_fidelity((from_environment(BULK, 1 << 26), 8));
}

fn assert_fidelity(size: (u64, usize)) {
    let (plain, mesh) = (Plain::new(), mesh(1));
    let (without, with) = std::thread::scope(|scope| {
        let without = scope.spawn(|| play(&plain, CASES, size));
        let with = play(&mesh, CASES, size);
        (without.join().unwrap(), with)
    });
    assert_eq!((without.len(), with.len()), (CASES.len(), CASES.len()));
    assert_equal(&without, &with, &mesh.output().text());
    let (_, others) = size;
    if others > 0 {
        let handshakes = metric(&mesh, "web", "watchword_tunnel_handshakes_total", "");
        let open = (others * PORTS.len()) as u64;
        assert!(
            handshakes < open,
            "{handshakes} handshakes where {open} connections were open at once"
        );
    }
}

/// Plays the cases one after the other, each with processes of its own.
fn play_alone(world: &dyn World, cases: &[Case]) -> Vec<Played> {
    let silence = Duration::from_secs(from_environment(SILENCE, 3));
    let alone = |case: &Case| {
        let began = Instant::now();
        let text = transcript(&mut Talk::begin(world, 0, PORTS[0], silence), case.script);
        let (name, took) = (case.name, began.elapsed());
        Played { name, text, took }
    };
    cases.iter().map(alone).collect()
}

#[test]
fn a_network_that_falls_silent_and_a_peer_that_vanishes_look_the_same_with_and_without_the_mesh() {
    let (plain, mesh) = (Plain::new(), mesh(1));
    let (without, with) = std::thread::scope(|scope| {
        let without = scope.spawn(|| play_alone(&plain, SILENT));
        let with = play_alone(&mesh, SILENT);
        (without.join().unwrap(), with)
    });
    assert_equal(&without, &with, &mesh.output().text());
    // Nobody may take the one that vanished for one that had ended.
    assert!(
        with[1].text.contains("quiet 4000\n  caller: nothing\n"),
        "{}",
        with[1].text
    );
}

/// What a caller sees of a server that it can't reach.
fn call_in_vain(world: &dyn World, port: u16) -> String {
    let seconds = PATIENCE.as_secs().to_string();
    let address = format!("{}:{port}", world.address(0));
    let mut caller = Peer::start(world.caller(0, &["call", &address, &seconds]), PATIENCE);
    match caller.ask("open").as_str() {
        "open" => format!("open, {}", caller.ask("read")),
        failed => failed.to_owned(),
    }
}

/// As docs/architecture.md has it. A reset that is quick enough is what a
/// blocking connect() itself returns.
fn is_a_reset_right_after_connect(seen: &str) -> bool {
    matches!(seen, "open, took 0, then reset" | "reset")
}

#[test]
fn a_refused_and_an_unreachable_peer_show_as_a_reset_right_after_connect_and_differ_in_nothing_else() {
    let (plain, mesh) = (Plain::new(), mesh(1));
    assert_eq!(call_in_vain(&plain, CLOSED_PORT), "refused");
    let seen = call_in_vain(&mesh, CLOSED_PORT);
    assert!(is_a_reset_right_after_connect(&seen), "{seen}");
    for world in [&plain as &dyn World, &mesh] {
        worlds::refuse(world, 0);
    }
    assert_eq!(call_in_vain(&plain, PORTS[0]), "unreachable");
    let seen = call_in_vain(&mesh, PORTS[0]);
    assert!(is_a_reset_right_after_connect(&seen), "{seen}");
}

/// So many connections between each pair at the same time: each says and hears
/// something, then all end.
fn gather(world: &dyn World, pairs: usize, each: usize) -> Vec<String> {
    let one = |pair: usize| {
        let mut talk = Talk::begin(world, pair, PORTS[pair], 4 * PATIENCE);
        transcript(&mut talk, &format!("both crowd {each}\nboth disperse"))
    };
    std::thread::scope(|scope| {
        let pairs: Vec<_> = (0..pairs).map(|pair| scope.spawn(move || one(pair))).collect();
        pairs.into_iter().map(|pair| pair.join().unwrap()).collect()
    })
}

#[test]
fn ten_thousand_connections_at_once_are_all_served_and_all_end_in_order() {
    // A sidecar needs two descriptors for a connection: two share the crowd,
    // so that the usual limits are enough.
    const PAIRS: usize = 2;
    let each = usize::try_from(from_environment(CROWD, 10_000)).unwrap() / PAIRS;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(
        most as usize > 2 * each + 200,
        "each sidecar needs {} descriptors, but the hard limit is {most}: raise it (ulimit -Hn)",
        2 * each + 200
    );
    let mesh = mesh(PAIRS);
    let (without, with) = (gather(&Plain::new(), PAIRS, each), gather(&mesh, PAIRS, each));
    let expected = format!(
        "both crowd {each}\n  caller: {each} conversed\n  server: {each} conversed\n\
         both disperse\n  caller: {each} ended in order\n  server: {each} ended in order\n"
    );
    assert_eq!(without, [expected.as_str(); PAIRS]);
    assert_eq!(with, without, "{:?}", reasons(&mesh.output().text()));
}

/// How often the log names each reason.
fn reasons(log: &str) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for word in log.split_whitespace().filter(|word| word.starts_with("reason=")) {
        *counts.entry(word).or_default() += 1;
    }
    counts
}
