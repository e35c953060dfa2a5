//! The control plane as its callers see it: over TLS on real sockets, with a
//! clock that stands still until it is moved.
#![allow(clippy::unwrap_used, clippy::panic)]

mod connections;
mod discovery;
mod harness;
mod issuance;
mod partners;
