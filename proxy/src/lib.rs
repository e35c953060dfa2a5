//! The sidecar: it intercepts a workload's TCP connections, proves and checks
//! identities, enforces policies, and carries the bytes.
//!
//! Start with [`inbound`] and [`outbound`]: each is the story of a connection,
//! readable from top to bottom. [`run`] puts the parts together.

mod accept;
mod address;
mod admin;
mod balance;
mod canary;
pub mod carry;
mod collector;
pub mod config;
mod connection;
mod control;
mod dial;
mod directory;
pub mod egress;
mod ended;
mod enforce;
mod facts;
mod foreign_end;
mod foreign_tls;
mod handshakes;
mod http;
mod inbound;
pub mod intercept;
mod live_tunnels;
mod log_limit;
mod mesh;
mod on_wake;
mod outbound;
mod plaintext_room;
mod reaches;
mod refusal;
mod relay;
pub mod run;
mod sds;
mod snapshots;
mod tally;
mod telemetry;
#[cfg(test)]
mod testing;
mod tunnel_io;
mod tunnels;
mod unix_socket;
mod visitor;
mod worker;
mod workload_api;
mod workload_calls;
mod workload_socket;
mod workloads;
