//! The SPIFFE Workload API's messages, from what a workload is to have.

use std::collections::HashMap;

pub use crate::generated::spiffe_workload_api_client::SpiffeWorkloadApiClient;
pub use crate::generated::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
pub use crate::generated::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};
use watchword_identity::{Bundle, Root, Svid, TrustDomain};

/// What a workload is told of its identities: each SVID with its key (PKCS#8,
/// DER), the first one the default, and the roots of every trust domain.
pub fn x509_svid_response<'a>(
    svids: impl IntoIterator<Item = (&'a Svid, &'a [u8])>,
    bundle: &Bundle,
) -> X509svidResponse {
    let svids: Vec<_> = svids.into_iter().collect();
    let is_own = |domain: &TrustDomain| svids.iter().any(|(svid, _)| svid.id().trust_domain() == domain);
    let federated_bundles = bundle
        .iter()
        .filter(|(domain, _)| !is_own(domain))
        .map(|(domain, roots)| (domain.id_string(), der(roots)))
        .collect();
    let svids = svids.iter().map(|(svid, key)| X509svid {
        spiffe_id: svid.id().to_string(),
        x509_svid: svid
            .chain()
            .iter()
            .flat_map(|certificate| certificate.iter().copied())
            .collect(),
        x509_svid_key: key.to_vec(),
        bundle: der(bundle.roots(svid.id().trust_domain())),
        hint: String::new(),
    });
    X509svidResponse {
        svids: svids.collect(),
        crl: Vec::new(),
        federated_bundles,
    }
}

/// The roots of every trust domain.
pub fn x509_bundles_response(bundle: &Bundle) -> X509BundlesResponse {
    let bundles: HashMap<String, Vec<u8>> = bundle
        .iter()
        .map(|(domain, roots)| (domain.id_string(), der(roots)))
        .collect();
    X509BundlesResponse {
        crl: Vec::new(),
        bundles,
    }
}

/// One after the other, without anything between them: what the standard's
/// "ASN.1 DER encoded" (SPIFFE Workload API, section 5.1) means to its clients,
/// go-spiffe among them.
fn der(roots: &[Root]) -> Vec<u8> {
    roots
        .iter()
        .flat_map(|root| root.certificate().iter().copied())
        .collect()
}

#[cfg(test)]
#[path = "workload_api_tests.rs"]
mod tests;
