//! Trust bundles: the roots of each trust domain (SPIFFE Trust Domain and
//! Bundle). A root of one domain never vouches for an ID of another.

use std::collections::BTreeMap;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use spiffe::TrustDomain;
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::svid::system_time;

/// At most as many roots per trust domain: each costs signature checks.
const MAX_ROOTS: usize = 32;

/// A root that may vouch for a trust domain's IDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    certificate: CertificateDer<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Root {
    /// Reads a root, which must be a CA certificate.
    ///
    /// # Errors
    /// When it is not DER, or not a CA certificate that may sign.
    pub fn from_der(der: CertificateDer<'static>) -> Result<Self, BundleError> {
        let malformed = |reason: String| BundleError::Malformed(reason);
        let (rest, certificate) = X509Certificate::from_der(&der).map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed("bytes follow the certificate".into()));
        }
        let constraints = certificate
            .basic_constraints()
            .map_err(|error| malformed(error.to_string()))?;
        if !constraints.is_some_and(|constraints| constraints.value.ca) {
            return Err(BundleError::NotACa(certificate.subject().to_string()));
        }
        let usage = certificate.key_usage().map_err(|error| malformed(error.to_string()))?;
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(BundleError::MayNotSign(certificate.subject().to_string()));
        }
        let (not_before, not_after) = (
            system_time(certificate.validity().not_before),
            system_time(certificate.validity().not_after),
        );
        Ok(Self {
            not_before,
            not_after,
            certificate: der,
        })
    }

    /// DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// When it stops to vouch.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// webpki does not look at a trust anchor's validity, so we do.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// Why roots can't be a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BundleError {
    /// Not a certificate.
    #[error("a root certificate cannot be read: {0}")]
    Malformed(String),
    /// basicConstraints without CA:true.
    #[error("the root {0:?} is not a CA certificate")]
    NotACa(String),
    /// keyUsage without keyCertSign.
    #[error("the root {0:?} may not sign certificates")]
    MayNotSign(String),
    /// Nothing to trust.
    #[error("the trust domain {0} has no root")]
    Empty(String),
    /// More than [`MAX_ROOTS`].
    #[error("the trust domain {0} has more than {MAX_ROOTS} roots")]
    TooMany(String),
}

/// The roots of each known trust domain: at least one each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    domains: BTreeMap<TrustDomain, Vec<Root>>,
}

impl Bundle {
    /// Of one trust domain; add others by [`Bundle::with`].
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn new(domain: TrustDomain, roots: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        Self::default().with(domain, roots)
    }

    /// Reads the certificates of a PEM text as the roots of `domain`.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn from_pem(domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        let roots = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            // The parser quotes the lines that it does not understand: a key's perhaps.
            .map_err(|_| BundleError::Malformed("no certificates in PEM".into()))?;
        Self::new(domain, roots)
    }

    /// The same with the roots of one more trust domain, in place of those it had.
    ///
    /// # Errors
    /// See [`BundleError`].
    pub fn with(mut self, domain: TrustDomain, roots: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        if roots.is_empty() {
            return Err(BundleError::Empty(domain.to_string()));
        }
        if roots.len() > MAX_ROOTS {
            return Err(BundleError::TooMany(domain.to_string()));
        }
        let roots = roots.into_iter().map(Root::from_der).collect::<Result<Vec<_>, _>>()?;
        self.domains.insert(domain, roots);
        Ok(self)
    }

    /// The same with the trust domains of `others` that it does not have: those
    /// that it has keep their own roots.
    #[must_use]
    pub fn with_others(mut self, others: &Self) -> Self {
        for (domain, roots) in &others.domains {
            self.domains.entry(domain.clone()).or_insert_with(|| roots.clone());
        }
        self
    }

    /// All roots of a trust domain, expired ones too; none for an unknown one.
    pub fn roots(&self, domain: &TrustDomain) -> &[Root] {
        self.domains.get(domain).map_or(&[], Vec::as_slice)
    }

    /// Each trust domain with its roots, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&TrustDomain, &[Root])> {
        self.domains.iter().map(|(domain, roots)| (domain, roots.as_slice()))
    }

    /// When the last root of a trust domain ends; nothing for an unknown one.
    pub fn not_after(&self, domain: &TrustDomain) -> Option<SystemTime> {
        self.roots(domain).iter().map(Root::not_after).max()
    }
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
