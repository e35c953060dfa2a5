//! What a decision costs, with ten rules and with ten thousand, and what it
//! costs to compile them when policies change.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use watchword_benches::mesh::{ORDERS, id};
use watchword_benches::rules::{PORT, caller, many_services, one_service, scattered, service, stranger};
use watchword_identity::SpiffeId;
use watchword_policy::{Call, PolicySet, Protocol, Reason};

const SIZES: [usize; 3] = [10, 1_000, 10_000];

fn main() {
    let mut criterion = watchword_benches::criterion();
    one_caller(&mut criterion);
    many_callers(&mut criterion);
    compiling(&mut criterion);
    criterion.final_summary();
}

/// The same call again and again.
fn one_caller(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    let orders = id(ORDERS);
    for size in SIZES {
        let set = PolicySet::new(one_service(size));
        let cases = [
            ("allowed", caller(size - 1), PORT, Reason::AllowRule),
            ("wrong-port", caller(size - 1), PORT + 1, Reason::NoAllowRule),
            ("denied", stranger(), PORT, Reason::DenyRule),
        ];
        for (name, peer, port, reason) in cases {
            let call = Call {
                service: &orders,
                peer: &peer,
                port,
                protocol: Protocol::Tcp,
            };
            assert_eq!(set.decide(&call).reason, reason, "{name}");
            group.bench_function(format!("{name}/{size}"), |bencher| {
                bencher.iter(|| set.decide(black_box(&call)));
            });
        }
    }
}

/// All callers in turn, each with a rule of its own, scattered over the whole
/// set: the worst case for the processor's caches. The IDs that are asked
/// about leave them too, unlike that of a peer whose certificate was just read.
fn many_callers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    let orders = id(ORDERS);
    for size in SIZES {
        let set = PolicySet::new(one_service(size));
        let pairs = scattered(size).map(|number| (orders.clone(), caller(number)));
        in_turn(&mut group, &format!("in-turn/{size}"), &set, pairs.collect());

        let set = PolicySet::new(many_services(size));
        let pairs = scattered(size).map(|number| (service(number / 10), caller(number)));
        in_turn(
            &mut group,
            &format!("in-turn-many-services/{size}"),
            &set,
            pairs.collect(),
        );
    }
}

type Group<'a> = criterion::BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn in_turn(group: &mut Group<'_>, name: &str, set: &PolicySet, pairs: Vec<(SpiffeId, SpiffeId)>) {
    let calls = || {
        pairs.iter().map(|(service, peer)| Call {
            service,
            peer,
            port: PORT,
            protocol: Protocol::Tcp,
        })
    };
    assert!(calls().all(|call| set.decide(&call).is_allowed()), "{name}");
    let mut turn = calls().collect::<Vec<_>>().into_iter().cycle();
    group.bench_function(name, |bencher| {
        bencher.iter(|| turn.next().map(|call| set.decide(&call)));
    });
}

/// At each change of policies, off the path of connections.
fn compiling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    for size in SIZES {
        let policies = one_service(size);
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(size.to_string(), |bencher| {
            bencher.iter_batched(|| policies.clone(), PolicySet::new, BatchSize::LargeInput);
        });
    }
}
