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

/// What one of it may cost.
struct Cost {
    what: &'static str,
    work: Work,
    allocations: f64,
    instructions: f64,
    /// How often it is done for its instructions to be counted: the cost of one
    /// is how both counts differ.
    few_and_many: (u32, u32),
}

const COSTS: [Cost; 6] = [
    Cost {
        what: "a decision",
        work: decisions,
        allocations: 0.0,
        instructions: 4_150.0,
        few_and_many: (1_000, 11_000),
    },
    Cost {
        what: "a decision about a request",
        work: requests,
        allocations: 0.0,
        instructions: 7_900.0,
        few_and_many: (1_000, 11_000),
    },
    Cost {
        what: "a question and its answer on a stream",
        work: questions,
        allocations: 6.0,
        instructions: 42_000.0,
        few_and_many: (100, 1_100),
    },
    Cost {
        what: "a mebibyte",
        work: mebibytes,
        allocations: 192.0,
        instructions: 23_500_000.0,
        few_and_many: (2, 12),
    },
    Cost {
        what: "a stream",
        work: streams,
        allocations: 45.0,
        instructions: 137_000.0,
        few_and_many: (100, 1_100),
    },
    Cost {
        what: "a handshake",
        work: handshakes,
        allocations: 633.0,
        instructions: 11_500_000.0,
        few_and_many: (5, 55),
    },
];

/// What one more of it costs.
fn of_one_more(cost: impl Fn(u32) -> u64, (few, many): (u32, u32)) -> f64 {
    let (least, most) = (cost(few), cost(many));
    (most as f64 - least as f64) / f64::from(many - few)
}

/// Fails with one line for each that costs more of the unit than it may.
fn assert_not_dear(unit: &str, cost_and_bound: impl Fn(&Cost) -> (f64, f64)) {
    let too_dear = |cost: &Cost| {
        let (found, most) = cost_and_bound(cost);
        (found > most).then(|| format!("{}: {found:.1} {unit}, may be {most}\n", cost.what))
    };
    let dear: String = COSTS.iter().filter_map(too_dear).collect();
    assert!(dear.is_empty(), "{dear}");
}

#[test]
fn what_is_carried_and_decided_allocates_no_more_than_it_did() {
    assert_not_dear("allocations", |cost| {
        let count = |times| allocation_counter::measure(|| (cost.work)(times)).count_total;
        // Once for what is made at the first use.
        count(1);
        (of_one_more(count, (10, 110)), cost.allocations)
    });
}

#[test]
fn what_is_carried_and_decided_takes_no_more_instructions_than_it_did() {
    assert_not_dear("instructions", |cost| {
        let count = |times| instructions::of(cost, times).expect("a count");
        (of_one_more(count, cost.few_and_many), cost.instructions)
    });
}
