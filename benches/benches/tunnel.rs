//! What a stream on a warm tunnel costs, and how many bytes go through one.
//!
//! Both sidecars and both apps share one thread, and the pipes are memory: a
//! number here is the CPU time of all of them together. `relay` is the same
//! way with copy loops in place of the sidecars: what is above it is theirs.
#![allow(clippy::expect_used, reason = "a failed benchmark has to stop")]

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use tokio::runtime::Runtime;
use watchword_benches::mesh::{Authority, ORDERS, WEB};
use watchword_benches::pipes::{Connection, Tunnel, relay};

const BULK: usize = 4 << 20;

fn main() {
    let mut criterion = watchword_benches::criterion();
    // One byte there, one back: opening and ending it is what costs.
    ways(&mut criterion, "stream", 1);
    ways(&mut criterion, "bulk", BULK);
    criterion.final_summary();
}

fn ways(criterion: &mut Criterion, name: &str, bytes: usize) {
    let runtime = watchword_benches::runtime();
    let mut group = criterion.benchmark_group(name);
    if bytes > 1 {
        group.throughput(Throughput::Bytes(bytes as u64));
    }
    group.bench_function("relay", |bencher| bencher.iter(|| runtime.block_on(relay(bytes))));

    tunnel(&mut group, "frames", &runtime, (Tunnel::plain(), bytes));

    let authority = Authority::root("root").intermediate();
    let (web, orders) = (authority.generation(WEB), authority.generation(ORDERS));
    let encrypted = runtime.block_on(Tunnel::encrypted(&web, &orders));
    tunnel(&mut group, "frames-and-tls", &runtime, (encrypted, bytes));
}

/// Stream after stream on one tunnel.
fn tunnel<C: Connection>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    runtime: &Runtime,
    (tunnel, bytes): (Tunnel<C>, usize),
) {
    let mut idle = Some(tunnel);
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let tunnel = idle.take().expect("the last stream gave it back");
            idle = Some(runtime.block_on(tunnel.carry(bytes)));
        });
    });
}
