//! Whole behaviour, on real meshes. Names read as sentences.
//!
//! `needs_root` holds what an ordinary user can't test; everything else runs
//! as root and as an ordinary user alike.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod applications;
mod apps;
mod authority;
mod bad_frames;
mod bad_input;
mod bad_peers;
mod calls;
mod certificates;
mod command_line;
mod demo;
mod dialling;
mod egress;
mod failures;
mod fidelity;
mod flood;
mod foreign;
mod guide;
mod http;
mod interception;
mod iptables;
mod leftovers;
mod live;
mod load;
mod needs_root;
mod permissive;
mod publish;
mod reload;
mod strangers;
mod tunnels;
mod vault;
mod vault_keys;
mod vault_logins;
mod vault_outages;
mod vault_roots;
mod wire;
mod workers;
mod workload_api;
