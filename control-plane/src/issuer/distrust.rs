//! What an authority answered, checked against what it was asked for. A role
//! that somebody widened by hand must not widen the mesh.
//!
//! Invariant: pure; the time and the bundle are given.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use thiserror::Error;
use watchword_identity::{Bundle, SpiffeId, Svid, Usage};
use watchword_mtls::{VerifyError, verify_chain};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The shortest serial that can hold 64 random bits (CA/Browser Forum
/// Baseline Requirements, section 7.1): lineages go by serials.
const MIN_SERIAL_BYTES: usize = 8;

/// Bits 0, 2 and 4: digitalSignature, keyEncipherment and keyAgreement
/// (RFC 5280, section 4.2.1.3).
const LEAF_KEY_USAGES: u16 = 0b1_0101;

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Expectation<'a> {
    /// The decided ID.
    pub id: &'a SpiffeId,
    /// SubjectPublicKeyInfo of the request, DER.
    pub public_key: &'a [u8],
    /// No later than that.
    pub ends_by: SystemTime,
    /// The wall time.
    pub now: SystemTime,
}

/// Why a certificate is withheld. Closed: each has a label.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Distrust {
    /// Peers would refuse it.
    #[error("peers would refuse it: {0}")]
    Verify(#[from] VerifyError),
    /// It leads to no root that is trusted.
    #[error(
        "peers would refuse it: its chain ends at {last:?}, signed by {signer:?}, and the mesh trusts {roots:?} alone \
         ({problem}). {remedy}"
    )]
    NoRoot {
        /// The subject of the last certificate.
        last: String,
        /// Its issuer.
        signer: String,
        /// The subjects of the roots in force.
        roots: Vec<String>,
        /// The verifier's word for it.
        problem: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A certificate of the chain can't be read.
    #[error("a certificate of the chain is malformed: {0}")]
    Malformed(String),
    /// For somebody else.
    #[error("it is for {found}, not for {expected}")]
    OtherId {
        /// As decided.
        expected: String,
        /// As signed.
        found: String,
    },
    /// For another key.
    #[error("its key is not the request's")]
    OtherKey,
    /// DNS, IP, e-mail, or anything else that is not the one URI.
    #[error("it holds a name beside the SPIFFE ID: {0}")]
    OtherName(String),
    /// A common name, which some read as a host name.
    #[error("its subject is not empty: {0}")]
    Subject(String),
    /// basicConstraints with CA:false must be there.
    #[error("it does not say CA:false")]
    NoBasicConstraints,
    /// More than SPIFFE X.509-SVID, section 4.3, grants a leaf.
    #[error("its keyUsage allows more than digitalSignature, keyEncipherment and keyAgreement")]
    KeyUsage,
    /// keyUsage always (SPIFFE X.509-SVID, section 4.3), and the names where
    /// there is no subject (section 3.1; RFC 5280, section 4.1.2.6).
    #[error("its {0} is not marked critical")]
    NotCritical(&'static str),
    /// Not just serverAuth and clientAuth.
    #[error("its extendedKeyUsage is not exactly serverAuth and clientAuth")]
    ExtendedKeyUsage,
    /// Valid for longer than asked.
    #[error("it is valid for longer than asked")]
    TooLong,
    /// Valid for longer than what signed it.
    #[error("it outlives its issuer")]
    OutlivesIssuer,
    /// A CA with a workload's ID (SPIFFE X.509-SVID, section 3.2).
    #[error("its issuer has a SPIFFE ID with a path, {0}, and so names a workload")]
    WorkloadSigns(String),
    /// Negative, or short enough to be guessed or used twice.
    #[error("its serial is not a positive number of at least {MIN_SERIAL_BYTES} bytes")]
    Serial,
}

impl Distrust {
    /// A label for logs and metrics: kebab-case, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Verify(error) => error.label(),
            Self::NoRoot { .. } => "untrusted-issuer",
            Self::Malformed(_) => "signed-malformed",
            Self::OtherId { .. } => "signed-other-id",
            Self::OtherKey => "signed-other-key",
            Self::OtherName(_) => "signed-other-name",
            Self::Subject(_) => "signed-subject",
            Self::NoBasicConstraints => "signed-no-basic-constraints",
            Self::KeyUsage => "signed-key-usage",
            Self::NotCritical(_) => "signed-not-critical",
            Self::ExtendedKeyUsage => "signed-extended-key-usage",
            Self::TooLong => "signed-too-long",
            Self::OutlivesIssuer => "signed-outlives-issuer",
            Self::WorkloadSigns(_) => "signed-by-workload",
            Self::Serial => "signed-serial",
        }
    }
}

/// Checks a signed chain (DER, leaf first) against what was asked for.
///
/// # Errors
/// See [`Distrust`].
pub fn distrust(
    chain: Vec<CertificateDer<'static>>,
    expected: &Expectation<'_>,
    bundle: &Bundle,
) -> Result<Svid, Distrust> {
    let last = chain.last().cloned();
    let svid = verify_chain(chain, bundle, Usage::Server, expected.now)
        .map_err(|error| explained(error, last.as_ref(), bundle, expected.id))?;
    svid.check_usage(Usage::Client).map_err(VerifyError::from)?;
    if svid.id() != expected.id {
        return Err(Distrust::OtherId {
            expected: expected.id.to_string(),
            found: svid.id().to_string(),
        });
    }
    if svid.public_key() != expected.public_key {
        return Err(Distrust::OtherKey);
    }
    if svid.not_after() > expected.ends_by {
        return Err(Distrust::TooLong);
    }
    let mut certificates = svid.chain().iter().map(|der| parse(der));
    if let Some(leaf) = certificates.next() {
        check_leaf(&leaf?)?;
    }
    check_issuers(&svid, certificates, bundle)?;
    Ok(svid)
}

/// A chain that leads nowhere is the operator's to mend: which end is open,
/// and where to close it.
fn explained(
    error: VerifyError,
    last: Option<&CertificateDer<'static>>,
    bundle: &Bundle,
    expected: &SpiffeId,
) -> Distrust {
    let (VerifyError::UntrustedIssuer { problem, .. }, Some(Ok(last))) = (&error, last.map(parse)) else {
        return error.into();
    };
    let roots = bundle.roots(expected.trust_domain()).iter();
    let roots: Vec<String> = roots
        .filter_map(|root| Some(parse(root.certificate()).ok()?.subject().to_string()))
        .collect();
    let (subject, signer) = (last.subject().to_string(), last.issuer().to_string());
    let remedy = if subject == signer {
        "That is a root: put its certificate into `rootFile`, beside the old one, if the mesh is to trust it"
    } else if roots.contains(&signer) {
        "A root has that name, but did not sign this one: put the root that did into `rootFile`, or import the right \
         chain into Vault"
    } else {
        "If the signer is a root, put its certificate into `rootFile`. If it is an intermediate, Vault does not know \
         it: import the whole chain without the root, by `vault write MOUNT/intermediate/set-signed \
         certificate=@chain.pem` (issuing authority first), or `vault write MOUNT/issuers/import/cert \
         pem_bundle=@intermediate.pem`"
    };
    Distrust::NoRoot {
        last: subject,
        signer,
        roots,
        problem: problem.clone(),
        remedy,
    }
}

fn check_leaf(leaf: &X509Certificate<'_>) -> Result<(), Distrust> {
    let malformed = |error: x509_parser::error::X509Error| Distrust::Malformed(error.to_string());
    if leaf.subject().iter().next().is_some() {
        return Err(Distrust::Subject(leaf.subject().to_string()));
    }
    let names = leaf.subject_alternative_name().map_err(malformed)?;
    if names.as_ref().is_some_and(|names| !names.critical) {
        return Err(Distrust::NotCritical("subjectAltName"));
    }
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        if !matches!(name, GeneralName::URI(_)) {
            return Err(Distrust::OtherName(format!("{name:?}")));
        }
    }
    if leaf.basic_constraints().map_err(malformed)?.is_none() {
        return Err(Distrust::NoBasicConstraints);
    }
    let usage = leaf.key_usage().map_err(malformed)?.ok_or(Distrust::KeyUsage)?;
    if usage.value.flags & !LEAF_KEY_USAGES != 0 {
        return Err(Distrust::KeyUsage);
    }
    if !usage.critical {
        return Err(Distrust::NotCritical("keyUsage"));
    }
    let extended = leaf
        .extended_key_usage()
        .map_err(malformed)?
        .ok_or(Distrust::ExtendedKeyUsage)?
        .value;
    let others = extended.any
        || extended.code_signing
        || extended.email_protection
        || extended.time_stamping
        || extended.ocsp_signing
        || !extended.other.is_empty();
    if !extended.server_auth || !extended.client_auth || others {
        return Err(Distrust::ExtendedKeyUsage);
    }
    let serial = leaf.raw_serial();
    if serial.len() < MIN_SERIAL_BYTES || serial.first().is_none_or(|first| first & 0x80 != 0) {
        return Err(Distrust::Serial);
    }
    Ok(())
}

fn check_issuers<'a>(
    svid: &Svid,
    issuers: impl Iterator<Item = Result<X509Certificate<'a>, Distrust>>,
    bundle: &Bundle,
) -> Result<(), Distrust> {
    let ends = i64::try_from(seconds(svid.not_after())).unwrap_or(i64::MAX);
    for issuer in issuers {
        let issuer = issuer?;
        if ends > issuer.validity().not_after.timestamp() {
            return Err(Distrust::OutlivesIssuer);
        }
        check_issuer_names(&issuer)?;
    }
    if bundle
        .not_after(svid.id().trust_domain())
        .is_none_or(|last| svid.not_after() > last)
    {
        return Err(Distrust::OutlivesIssuer);
    }
    Ok(())
}

/// An issuer need not have a SPIFFE ID; if it has one, that names no workload.
fn check_issuer_names(issuer: &X509Certificate<'_>) -> Result<(), Distrust> {
    let names = issuer
        .subject_alternative_name()
        .map_err(|error| Distrust::Malformed(error.to_string()))?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        if let GeneralName::URI(uri) = name
            && SpiffeId::new(uri).is_ok_and(|id| !id.path().is_empty())
        {
            return Err(Distrust::WorkloadSigns((*uri).to_owned()));
        }
    }
    Ok(())
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Distrust> {
    X509Certificate::from_der(der)
        .map(|(_, certificate)| certificate)
        .map_err(|error| Distrust::Malformed(error.to_string()))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests;
