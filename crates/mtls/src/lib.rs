//! Mutual TLS by SPIFFE identity: the one place that configures rustls.
//!
//! Invariants:
//! - TLS 1.3 only, no resumption, no tickets, no 0-RTT, and within the mesh no
//!   SNI: each connection proves both identities with today's certificates.
//! - Authentication happens in the verifier; who may call whom is decided by
//!   others after the handshake, so that a denial can be logged and answered.
//! - Configurations are built once per generation, never per handshake, and a
//!   generation that can't be built never replaces one that works.
//! - Private keys never leave this crate again and are never printed.

mod control;
mod credentials;
mod generation;
mod handshake;
mod leaf;
mod look;
mod outside;
mod stream;
mod verify;

pub use control::{ControlClient, accept_control};
pub use credentials::Credentials;
pub use generation::{ForeignProtocol, Generation, LANES_ALPN, PublishError, TUNNEL_ALPN};
pub use handshake::{
    Accepted, HANDSHAKE_DEADLINE, HandshakeError, Peer, accept, accept_tunnel, connect_foreign, connect_lanes,
    connect_tunnel,
};
pub use look::look_at_server;
pub use outside::{OutsideClient, OutsideError, ShownCertificate, check_host};
pub use stream::TlsStream;
pub use verify::{Now, VerifyError, verify_chain};

#[cfg(test)]
mod tests;
