//! What the hot paths cost, in counts that noise does not touch: allocations,
//! and instructions as valgrind counts them. A bound is half above what was
//! measured when it was written, so it fails when somebody doubles a cost.
//!
//! Both ends and their apps, or what stands for these, are in each number; of
//! two that are compared it counts how they change. System calls are guarded
//! where there are some: crates/tunnel/tests/tunnel/costs.rs and
//! tests/tests/end_to_end/needs_root.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod instructions;
mod work;

use self::work::{Work, decisions, handshakes, mebibytes, questions, requests, streams};

/// What one more of it costs.
fn of_one_more(cost: impl Fn(u32) -> u64, (few, many): (u32, u32)) -> f64 {
    let (least, most) = (cost(few), cost(many));
    (most as f64 - least as f64) / f64::from(many - few)
}

/// One line for each that costs more than it may, in the unit.
fn too_dear(unit: &str, table: &[(&str, f64, f64)]) -> String {
    let dear = table.iter().filter(|(_, cost, most)| cost > most);
    dear.map(|(what, cost, most)| format!("{what}: {cost:.1} {unit}, may be {most}\n"))
        .collect()
}

fn allocations(work: Work) -> f64 {
    let count = |times| allocation_counter::measure(|| work(times)).count_total;
    // Once for what is made at the first use.
    count(1);
    of_one_more(count, (10, 110))
}

#[test]
fn what_is_carried_and_decided_allocates_no_more_than_it_did() {
    let table = [
        ("a decision", allocations(decisions), 0.0),
        ("a decision about a request", allocations(requests), 0.0),
        ("a question and its answer on a stream", allocations(questions), 6.0),
        ("a mebibyte", allocations(mebibytes), 192.0),
        ("a stream", allocations(streams), 45.0),
        ("a handshake", allocations(handshakes), 633.0),
    ];
    let dear = too_dear("allocations", &table);
    assert!(dear.is_empty(), "{dear}");
}

#[test]
fn what_is_carried_and_decided_takes_no_more_instructions_than_it_did() {
    let instructions = |name: &str, few_and_many: (u32, u32)| {
        of_one_more(|times| instructions::of(name, times).expect("a count"), few_and_many)
    };
    let table = [
        ("a decision", instructions("decisions", (1_000, 11_000)), 4_150.0),
        (
            "a decision about a request",
            instructions("requests", (1_000, 11_000)),
            7_900.0,
        ),
        (
            "a question and its answer on a stream",
            instructions("questions", (100, 1_100)),
            42_000.0,
        ),
        ("a mebibyte", instructions("mebibytes", (2, 12)), 23_500_000.0),
        ("a stream", instructions("streams", (100, 1_100)), 137_000.0),
        ("a handshake", instructions("handshakes", (5, 55)), 11_500_000.0),
    ];
    let dear = too_dear("instructions", &table);
    assert!(dear.is_empty(), "{dear}");
}
