//! Everything that comes from the control plane: our certificate
//! ([`identity`]), those of workloads that we speak for ([`for_workloads`]),
//! and the snapshots that it pushes ([`discovery`]).

pub(crate) mod bundles;
pub(crate) mod channel;
pub(crate) mod discovery;
pub(crate) mod for_workloads;
pub(crate) mod freshness;
pub(crate) mod identity;
mod key_request;
mod obtain;
mod token;

pub(crate) use channel::ControlPlane;
pub(crate) use key_request::KeyRequest;
pub(crate) use obtain::ObtainError;
pub(crate) use token::TokenSource;
