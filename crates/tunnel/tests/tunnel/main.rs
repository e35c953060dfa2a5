//! Tunnels end to end, over in-memory connections: both drivers against each
//! other, and each against a peer that is written out frame by frame.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod chance;
mod costs;
mod edges;
mod ends;
mod lanes;
mod lazy;
mod peer;
mod pool;
mod reading;
mod streams;
mod tcp;
mod timeouts;
mod trouble;
