//! Interception: which connections come to us instead of where they were
//! going, and where that was.
//!
//! The rules are data ([`rules`]), rendered for nftables ([`nft`]) and put in
//! force in one transaction ([`install`]), or for [`iptables`] where there is no
//! nft. [`way_back`] is how the app's answers
//! reach the sidecar where it dials from a caller's address. [`original`] asks the kernel where a
//! connection was going.

pub mod install;
pub mod iptables;
pub mod nft;
pub mod original;
pub mod rules;
pub mod way_back;

/// Where captured outbound connections arrive, on loopback.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where captured inbound connections arrive.
pub const INBOUND_PORT: u16 = 15006;
/// Nothing listens there; interception alone makes it answer.
pub const CANARY_PORT: u16 = 15099;
/// Health and metrics: never captured, so that probes reach them in plaintext.
pub const HEALTH_PORT: u16 = 15020;
