//! Which certificates Vault says were revoked: the mount's CRL, as it was read
//! last.
//!
//! Invariants: a list that can't be read changes nothing. It is asked for with
//! connections of its own, so that whatever is wrong with a list keeps nobody
//! from signing.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::client::{Call, Client};
use super::error::CallError;

/// The longest list that is read, in bytes: some 20,000 certificates.
pub(super) const MAX_LIST: usize = 1024 * 1024;

#[derive(Deserialize)]
struct Answer {
    data: AnswerData,
}

#[derive(Deserialize)]
struct AnswerData {
    /// PEM.
    certificate: String,
}

/// The serials, lower-case hexadecimal without zeros in front.
pub(super) struct Revoked {
    client: Client,
    path: String,
    serials: ArcSwap<HashSet<String>>,
}

impl Revoked {
    /// Of the issuer that the mount uses by default. None yet.
    pub(super) fn new(client: Client, mount: &str) -> Self {
        Self {
            client,
            path: format!("{mount}/cert/crl"),
            serials: ArcSwap::default(),
        }
    }

    pub(super) fn holds(&self, serial: &str) -> bool {
        self.serials.load().contains(serial)
    }

    /// Reads the list again. It needs no login (RFC 5280, section 5: it is public).
    pub(super) async fn refresh(&self) -> Result<(), CallError> {
        let call = Call {
            path: self.path.clone(),
            token: None,
            body: None,
            secrets: &[],
        };
        let answer: Answer = self.client.call(&call).await?;
        let serials = serials(&answer.data.certificate).map_err(CallError::Unavailable)?;
        let new = serials.difference(&self.serials.load()).count();
        if new > 0 {
            tracing::warn!(
                new,
                revoked = serials.len(),
                "certificates were revoked in Vault: they are not renewed"
            );
        }
        self.serials.store(Arc::new(serials));
        Ok(())
    }
}

fn serials(pem: &str) -> Result<HashSet<String>, String> {
    // A mount that has revoked nothing yet may have an empty list, or none.
    if pem.trim().is_empty() {
        return Ok(HashSet::new());
    }
    let der =
        CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).map_err(|_| "Vault's CRL is no PEM".to_owned())?;
    let (_, list) =
        CertificateRevocationList::from_der(&der).map_err(|error| format!("Vault's CRL can't be read: {error}"))?;
    let serial = |bytes: &[u8]| {
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // DER puts a zero before a first byte that would read as negative.
        text.strip_prefix("00").map(str::to_owned).unwrap_or(text)
    };
    Ok(list
        .iter_revoked_certificates()
        .map(|revoked| serial(revoked.raw_serial()))
        .collect())
}
