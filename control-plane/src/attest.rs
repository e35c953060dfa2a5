//! How a caller shows what it is: a join token at first, then the SVID that
//! it got, along a lineage.
//!
//! Invariants: pure functions on the state, at a time that is given. They
//! decide who is who; whether that ID is registered is `crate::registry`'s
//! question.

pub mod lineage;
pub mod token;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;

/// A chain as it is kept: DER in base64.
pub(crate) fn encode_chain(chain: &[CertificateDer<'_>]) -> Vec<String> {
    chain.iter().map(|certificate| STANDARD.encode(certificate)).collect()
}

/// A chain that was kept; nothing when it is not one.
pub(crate) fn decode_chain(chain: &[String]) -> Option<Vec<CertificateDer<'static>>> {
    chain
        .iter()
        .map(|text| STANDARD.decode(text).ok().map(CertificateDer::from))
        .collect()
}
