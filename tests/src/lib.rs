//! The harness of the end-to-end tests: real meshes of real processes, in
//! network namespaces of their own, driven as a person would drive them.
//!
//! Invariants: waits for what it can observe, with a deadline and a message
//! that holds the mesh's own log; leaves nothing behind.

mod agent;
mod altered;
mod docs;
pub mod keys;
mod kubernetes;
mod mesh;
mod offline;
mod otlp;
mod output;
mod processes;
mod programs;
mod tools;
mod vault;

pub use agent::Agent;
pub use altered::{altered, without, without_ipv6};
pub use docs::{shell, shown};
pub use kubernetes::Kubernetes;
pub use mesh::{Mesh, MeshFile, enter_network};
pub use offline::{OfflineAuthority, openssl};
pub use otlp::{Collector, ReceivedSpan};
pub use output::{DEADLINE, Output, wait_until};
pub use processes::{Stopped, process};
pub use programs::{binary, is_root, run};
pub use tools::tool;
pub use vault::{Administrator, Cluster, Fault, FaultyWay, MOUNT, Vault, vault_program};
