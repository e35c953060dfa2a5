//! A fresh key, and the request that asks for an ID with it.
//!
//! Invariant: keys are made here, live in memory, and are never used twice.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use watchword_identity::SpiffeId;

/// Kept until it is answered: a lost answer is asked for again with the same key.
pub(crate) struct KeyRequest {
    pub(crate) id: SpiffeId,
    pub(crate) key: PrivatePkcs8KeyDer<'static>,
    /// SubjectPublicKeyInfo, DER.
    pub(crate) public_key: Vec<u8>,
    /// PKCS#10, DER.
    pub(crate) csr: Vec<u8>,
}

impl KeyRequest {
    pub(crate) fn new(id: SpiffeId) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.to_string().as_str().try_into()?)];
        let csr = params.serialize_request(&key)?.der().to_vec();
        Ok(Self {
            id,
            public_key: key.subject_public_key_info(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            csr,
        })
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

/// The request that is under way, or a new one when it was for another ID.
pub(super) fn request_for<'a>(
    request: &'a mut Option<KeyRequest>,
    id: &SpiffeId,
) -> Result<&'a KeyRequest, rcgen::Error> {
    match request.take() {
        Some(made) if made.id == *id => Ok(request.insert(made)),
        _ => Ok(request.insert(KeyRequest::new(id.clone())?)),
    }
}
