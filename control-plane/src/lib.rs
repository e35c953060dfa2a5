//! The control plane: decides who is who, has their certificates signed, and
//! tells proxies whom to trust, who may call and who lives where.
//!
//! How an SVID comes about: `api` takes the call, `enrolment` checks evidence
//! (`attest`), ID (`registry`) and request (`csr`), the `authority` signs,
//! the result is distrusted (`issuer`), written down (`store`) and answered.
//! How news get out: `snapshots` holds them, `subscription` decides what one
//! proxy is sent, `api` moves the messages.

pub mod api;
pub mod attest;
pub mod authority;
mod control_plane;
pub mod csr;
pub mod enrolment;
mod file_watch;
pub mod issuer;
pub mod mesh_file;
mod mesh_watch;
pub mod metrics;
pub mod own_identity;
mod pem;
pub mod registry;
pub mod snapshots;
pub mod state_folder;
mod stillness;
pub mod store;
pub mod subscribers;
pub mod subscription;
#[cfg(test)]
mod testing;

pub use control_plane::{ControlPlane, Process, RunError};
pub use mesh_watch::{LoadedMesh, MeshWatch};
