//! The name of a leaf for who was not there when it was proved.

use aws_lc_rs::digest::{SHA256, digest};
use watchword_identity::Svid;

/// SHA-256 of a leaf's DER, as `x-forwarded-client-cert` has it.
pub(crate) fn leaf_hash(svid: &Svid) -> [u8; 32] {
    let leaf = svid.chain().first().map(AsRef::as_ref).unwrap_or_default();
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, leaf).as_ref());
    hash
}
