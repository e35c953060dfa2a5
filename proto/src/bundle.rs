//! Bundles to and from their message.

use rustls_pki_types::CertificateDer;
use watchword_identity::{Bundle, TrustDomain};

use crate::{InvalidMessage, control};

/// A bundle as it goes over the wire.
pub fn bundle_to_proto(bundle: &Bundle) -> control::Bundle {
    let trust_domains = bundle
        .iter()
        .map(|(domain, roots)| control::TrustDomainRoots {
            trust_domain: domain.to_string(),
            roots: roots.iter().map(|root| root.certificate().to_vec()).collect(),
        })
        .collect();
    control::Bundle { trust_domains }
}

/// A bundle that came over the wire.
///
/// # Errors
/// When it has no trust domain, or one without valid roots.
pub fn bundle_from_proto(message: control::Bundle) -> Result<Bundle, InvalidMessage> {
    if message.trust_domains.is_empty() {
        return Err(InvalidMessage::new(
            "trust_domains",
            "a bundle has at least one trust domain",
        ));
    }
    let mut bundle = Bundle::default();
    for (index, entry) in message.trust_domains.into_iter().enumerate() {
        let field = format!("trust_domains[{index}]");
        let domain =
            TrustDomain::new(&entry.trust_domain).map_err(|error| InvalidMessage::new(field.as_str(), error))?;
        let roots = entry.roots.into_iter().map(CertificateDer::from).collect();
        bundle = bundle
            .with(domain, roots)
            .map_err(|error| InvalidMessage::new(field, error))?;
    }
    Ok(bundle)
}
