//! SPIFFE identities as data: what an X.509-SVID says, whether it may be one,
//! which roots a trust domain has, and when to renew.
//!
//! Invariants: pure. No clock (`now` is an argument), no sockets, no TLS, no
//! signatures: whether a chain leads to a root is `watchword-mtls`'s question.

mod bundle;
pub mod schedule;
mod svid;

pub use bundle::{Bundle, BundleError, Root};
pub use spiffe::{SpiffeId, TrustDomain};
pub use svid::{Svid, SvidError, Usage};
