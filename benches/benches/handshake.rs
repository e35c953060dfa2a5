//! What a new tunnel costs: the mutual handshake, each side's share of it, and
//! the TLS configurations that a new certificate needs once.
//!
//! In memory and on one thread: no network, both ends' CPU time together.
#![allow(clippy::expect_used, reason = "a failed benchmark has to stop")]

use std::future::poll_fn;
use std::hint::black_box;
use std::pin::pin;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion};
use tokio::io::duplex;
use watchword_benches::mesh::{Authority, ORDERS, WEB, id, noon, publish};
use watchword_benches::pipes::PIPE;
use watchword_mtls::{Credentials, Generation, Now, accept_tunnel, connect_tunnel};

fn main() {
    let mut criterion = watchword_benches::criterion();
    handshakes(&mut criterion);
    generations(&mut criterion);
    criterion.final_summary();
}

fn handshakes(criterion: &mut Criterion) {
    let runtime = watchword_benches::runtime();
    let mut group = criterion.benchmark_group("handshake");
    let root = Authority::root("root");
    for (chain, authority) in [("leaf", &root), ("leaf-and-intermediate", &root.intermediate())] {
        let (web, orders) = (authority.generation(WEB), authority.generation(ORDERS));
        for (name, part) in PARTS {
            group.bench_function(format!("{name}/{chain}"), |bencher| {
                bencher.iter_custom(|count| {
                    runtime.block_on(async {
                        let mut spent = Duration::ZERO;
                        for _ in 0..count {
                            spent += part(&shake(&web, &orders).await);
                        }
                        spent
                    })
                });
            });
        }
    }
}

/// Where the time of one handshake went.
struct Share {
    client: Duration,
    server: Duration,
}

type Part = fn(&Share) -> Duration;

/// What is reported of it.
const PARTS: [(&str, Part); 3] = [
    ("both", |share| share.client + share.server),
    ("client", |share| share.client),
    ("server", |share| share.server),
];

async fn shake(web: &Generation, orders: &Generation) -> Share {
    let (near, far) = duplex(PIPE);
    let expected = id(ORDERS);
    let mut share = Share {
        client: Duration::ZERO,
        server: Duration::ZERO,
    };
    let (client, server) = tokio::join!(
        timed(&mut share.client, connect_tunnel(web, near, &expected)),
        timed(&mut share.server, accept_tunnel(orders, far)),
    );
    let (_, seen) = server.expect("the server's handshake");
    assert_eq!(seen.id().to_string(), WEB);
    black_box(client.expect("the client's handshake"));
    share
}

/// Runs `work` and adds up the time within it, not the time that it waits.
async fn timed<F: Future>(spent: &mut Duration, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let began = Instant::now();
        let polled = work.as_mut().poll(cx);
        *spent += began.elapsed();
        polled
    })
    .await
}

/// Once per renewal: validation in both roles, and four TLS configurations.
fn generations(criterion: &mut Criterion) {
    let authority = Authority::root("root").intermediate();
    let (leaf, bundle) = (authority.leaf(WEB), authority.bundle());
    let credentials = Credentials::new(Now::new(noon));
    criterion.bench_function("generation/publish", |bencher| {
        bencher.iter_batched(
            || bundle.clone(),
            |bundle| publish(&credentials, &leaf, bundle),
            BatchSize::SmallInput,
        );
    });
}
