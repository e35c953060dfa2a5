//! What it costs to verify a peer's chain, and what it costs to refuse one:
//! anybody who reaches the port can have us do the latter.
#![allow(clippy::expect_used, reason = "a failed benchmark has to stop")]

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup};
use rustls_pki_types::CertificateDer;
use watchword_benches::mesh::{Authority, DOMAIN, Leaf, WEB, bundle, noon};
use watchword_identity::{Bundle, Usage};
use watchword_mtls::verify_chain;

fn main() {
    let mut criterion = watchword_benches::criterion();
    let mut group = criterion.benchmark_group("verification");
    accepted(&mut group);
    refused(&mut group);
    group.finish();
    criterion.final_summary();
}

fn accepted(group: &mut BenchmarkGroup<'_, WallTime>) {
    let root = Authority::root("root");
    let intermediate = root.intermediate();
    let roots = |count: usize, name: fn(usize) -> String| {
        // Ours is the last one that is tried.
        let others = (1..count).map(|number| Authority::root(&name(number)).root_certificate().clone());
        let roots = others.chain([root.root_certificate().clone()]);
        bundle(DOMAIN, roots.collect())
    };
    let same: fn(usize) -> String = |_| "root".to_owned();
    let own: fn(usize) -> String = |number| format!("root {number}");
    let cases = [
        ("leaf", root.leaf(WEB), roots(1, same)),
        ("leaf-and-intermediate", intermediate.leaf(WEB), roots(1, same)),
        ("last-of-2-roots", intermediate.leaf(WEB), roots(2, own)),
        ("last-of-32-roots", intermediate.leaf(WEB), roots(32, own)),
        ("last-of-2-roots-of-one-name", intermediate.leaf(WEB), roots(2, same)),
        ("last-of-32-roots-of-one-name", intermediate.leaf(WEB), roots(32, same)),
    ];
    for (name, leaf, bundle) in cases {
        measure(group, &format!("accepted/{name}"), (&leaf, &bundle), "");
    }
}

fn refused(group: &mut BenchmarkGroup<'_, WallTime>) {
    let ours = Authority::root("root");
    let stranger = Authority::root("root").intermediate();
    let mut long = ours.leaf(WEB);
    let first = long.chain.first().cloned().expect("a leaf");
    long.chain.resize(5, first);
    let elsewhere = ours.leaf("spiffe://elsewhere.example/web");
    let cases = [
        ("another-authority", stranger.leaf(WEB), "untrusted-issuer"),
        ("unknown-trust-domain", elsewhere, "unknown-trust-domain"),
        ("chain-of-5", long, "chain-too-long"),
    ];
    for (name, leaf, label) in cases {
        measure(group, &format!("refused/{name}"), (&leaf, &ours.bundle()), label);
    }
}

/// Measures one chain, whose outcome must have this label; empty for accepted.
fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, (leaf, bundle): (&Leaf, &Bundle), label: &str) {
    let outcome = |chain: Vec<CertificateDer<'static>>| verify_chain(chain, bundle, Usage::Client, noon());
    let found = outcome(leaf.chain.clone()).map_or_else(|error| error.label(), |_| "");
    assert_eq!(found, label, "{name}");
    group.bench_function(name, |bencher| {
        bencher.iter_batched(|| leaf.chain.clone(), outcome, BatchSize::SmallInput);
    });
}
