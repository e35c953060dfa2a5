//! Curves of keys, by the names that people and JWK (RFC 7518) know.

use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521};
use x509_parser::x509::SubjectPublicKeyInfo;

/// `P-256` and the like; nothing for a key on another curve, or on none.
pub(crate) fn name(key: &SubjectPublicKeyInfo<'_>) -> Option<&'static str> {
    let oid = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
    let known = [
        (OID_EC_P256, "P-256"),
        (OID_NIST_EC_P384, "P-384"),
        (OID_NIST_EC_P521, "P-521"),
    ];
    known.into_iter().find(|(known, _)| *known == oid).map(|(_, name)| name)
}
