//! What a decision costs on a connection and on a request, with ten rules and
//! with ten thousand, and what it costs to compile them when policies change.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use watchword_benches::mesh::{ORDERS, id};
use watchword_benches::rules::{
    PORT, caller, grpc_path, many_methods, many_paths, many_readers, many_services, one_service, path, scattered,
    service, stranger,
};
use watchword_identity::SpiffeId;
use watchword_policy::path::normalise;
use watchword_policy::{Call, Policy, PolicySet, Principal, Protocol, Reason, Request};

const SIZES: [usize; 3] = [10, 1_000, 10_000];

fn main() {
    let mut criterion = watchword_benches::criterion();
    one_caller(&mut criterion);
    many_callers(&mut criterion);
    requests(&mut criterion);
    normalising(&mut criterion);
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

fn in_turn(group: &mut Group<'_>, name: &str, set: &PolicySet, pairs: Vec<(SpiffeId, Principal)>) {
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

/// Requests in turn, each with a rule of its own, scattered over the set: by
/// path, by caller and by gRPC method; and one that no rule allows.
fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    for size in SIZES {
        let set = PolicySet::new(many_paths(size));
        let asked = scattered(size).map(|number| (caller(0), path(number)));
        requests_in_turn(
            &mut group,
            &format!("paths/{size}"),
            (&set, Protocol::Http),
            asked.collect(),
        );
        let nowhere = vec![(caller(0), "/api/v1/things-x/parts/7".to_owned())];
        requests_in_turn(&mut group, &format!("no-rule/{size}"), (&set, Protocol::Http), nowhere);

        let set = PolicySet::new(many_readers(size));
        let asked = scattered(size).map(|number| (caller(number), path(0)));
        requests_in_turn(
            &mut group,
            &format!("callers/{size}"),
            (&set, Protocol::Http),
            asked.collect(),
        );

        let set = PolicySet::new(many_methods(size));
        let asked = scattered(size).map(|number| (caller(0), grpc_path(number)));
        requests_in_turn(
            &mut group,
            &format!("grpc/{size}"),
            (&set, Protocol::Grpc),
            asked.collect(),
        );
    }
}

fn requests_in_turn(
    group: &mut Group<'_>,
    name: &str,
    (set, protocol): (&PolicySet, Protocol),
    asked: Vec<(Principal, String)>,
) {
    let orders = id(ORDERS);
    let headers = http::HeaderMap::new();
    let decide = |(peer, path): &(Principal, String)| {
        let call = Call {
            service: &orders,
            peer,
            port: PORT,
            protocol,
        };
        let request = Request {
            method: "GET",
            path,
            host: Some("orders:8080"),
            headers: &headers,
        };
        set.decide_request(&call, &request)
    };
    let expected = !name.starts_with("no-rule");
    assert!(
        asked.iter().all(|asked| decide(asked).is_allowed() == expected),
        "{name}"
    );
    let mut turn = asked.iter().cycle();
    group.bench_function(name, |bencher| bencher.iter(|| turn.next().map(decide)));
}

/// What each request's path goes through before.
fn normalising(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("normalise");
    for (name, raw) in [
        ("plain", "/api/v1/things-4711/parts/7"),
        ("escaped", "/api/v1/th%69ngs/%C3%BC/../parts//7"),
    ] {
        assert!(normalise(raw).is_ok(), "{name}");
        group.bench_function(name, |bencher| bencher.iter(|| normalise(black_box(raw))));
    }
}

/// Policies of a number of rules.
type Kind = (&'static str, fn(usize) -> Vec<Policy>);

/// At each change of policies, off the path of connections.
fn compiling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    let kinds: [Kind; 3] = [("callers", one_service), ("paths", many_paths), ("grpc", many_methods)];
    for (name, policies) in kinds {
        for size in SIZES {
            let policies = policies(size);
            group.throughput(Throughput::Elements(size as u64));
            group.bench_function(format!("{name}/{size}"), |bencher| {
                bencher.iter_batched(|| policies.clone(), PolicySet::new, BatchSize::LargeInput);
            });
        }
    }
}
