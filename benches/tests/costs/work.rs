//! What is counted.

use std::sync::Arc;

use http::HeaderMap;
use watchword_benches::mesh::{Authority, ORDERS, WEB, id};
use watchword_benches::pipes::{Encrypted, Tunnel};
use watchword_benches::rules::{PORT, caller, many_paths, one_service, path};
use watchword_mtls::Generation;
use watchword_policy::{Call, PolicySet, Protocol, Request};

/// Does something so many times, and panics where it was not done.
pub(crate) type Work = fn(u32);

const RULES: usize = 100;

pub(crate) fn decisions(times: u32) {
    let (set, orders) = (PolicySet::new(one_service(RULES)), id(ORDERS));
    let peer = caller(RULES - 1);
    let call = Call {
        service: &orders,
        peer: &peer,
        port: PORT,
        protocol: Protocol::Tcp,
    };
    assert!((0..times).all(|_| set.decide(&call).is_allowed()));
}

pub(crate) fn requests(times: u32) {
    let (set, orders) = (PolicySet::new(many_paths(RULES)), id(ORDERS));
    let (peer, path, headers) = (caller(0), path(RULES - 1), HeaderMap::new());
    let call = Call {
        service: &orders,
        peer: &peer,
        port: PORT,
        protocol: Protocol::Http,
    };
    let request = Request {
        method: "GET",
        path: &path,
        host: Some("orders:8080"),
        headers: &headers,
    };
    assert!((0..times).all(|_| set.decide_request(&call, &request).is_allowed()));
}

/// On a warm tunnel with TLS, a byte each way.
pub(crate) fn streams(times: u32) {
    on_a_tunnel(async |mut tunnel| {
        for _ in 0..times {
            tunnel = tunnel.carry(1).await;
        }
    });
}

/// On one stream.
pub(crate) fn questions(times: u32) {
    on_a_tunnel(async |tunnel| drop(tunnel.ask(times as usize).await));
}

/// One way, on one stream.
pub(crate) fn mebibytes(times: u32) {
    on_a_tunnel(async |tunnel| drop(tunnel.carry((times as usize) << 20).await));
}

pub(crate) fn handshakes(times: u32) {
    let (web, orders) = ends();
    watchword_benches::runtime().block_on(async {
        for _ in 0..times {
            drop(Tunnel::encrypted(&web, &orders).await);
        }
    });
}

fn on_a_tunnel(work: impl AsyncFnOnce(Encrypted)) {
    let (web, orders) = ends();
    watchword_benches::runtime().block_on(async { work(Tunnel::encrypted(&web, &orders).await).await });
}

/// Their chains have an intermediate.
fn ends() -> (Arc<Generation>, Arc<Generation>) {
    let authority = Authority::root("root").intermediate();
    (authority.generation(WEB), authority.generation(ORDERS))
}
