//! Everything that comes from the control plane: our certificate
//! ([`identity`]) and the snapshots that it pushes ([`discovery`]).

pub(crate) mod bundles;
pub(crate) mod channel;
pub(crate) mod discovery;
pub(crate) mod identity;
mod token;

pub(crate) use channel::ControlPlane;
pub(crate) use token::TokenSource;
