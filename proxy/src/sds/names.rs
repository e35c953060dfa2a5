//! What each name stands for: those that users of SPIRE and Istio write into
//! their Envoy's configuration.
//!
//! | name | what |
//! | --- | --- |
//! | `default` | the caller's first SVID |
//! | a SPIFFE ID | that SVID of the caller |
//! | `ROOTCA` | the roots of the first SVID's trust domain |
//! | `ALL` | the roots of every known trust domain |
//! | a trust domain's ID, `spiffe://example.org` | the roots of that one |

use std::hash::{DefaultHasher, Hash, Hasher};

use watchword_identity::{Bundle, TrustDomain};
use watchword_proto::sds::{Packed, tls_certificate, validation_context};

use crate::workloads::Material;

pub(super) const DEFAULT: &str = "default";
pub(super) const OWN_ROOTS: &str = "ROOTCA";
pub(super) const ALL_ROOTS: &str = "ALL";
/// Asks for all (xDS).
pub(super) const WILDCARD: &str = "*";

/// A secret with its name and version.
pub(super) struct Named {
    pub(super) name: String,
    /// Changes with the content, and only with it: the same on every stream.
    pub(super) version: String,
    pub(super) secret: Packed,
}

/// All names that there are, in the order of the table.
pub(super) fn known(material: &Material) -> Vec<String> {
    let ids = material.svids.iter().map(|held| held.svid.id().to_string());
    let domains = material.bundle.iter().map(|(domain, _)| domain.id_string());
    [DEFAULT.to_owned()]
        .into_iter()
        .chain(ids)
        .chain([OWN_ROOTS.to_owned(), ALL_ROOTS.to_owned()])
        .chain(domains)
        .collect()
}

/// What a name stands for; nothing for one that is not known.
pub(super) fn find(name: &str, material: &Material) -> Option<Named> {
    certificate(name, material).or_else(|| roots(name, material))
}

fn certificate(name: &str, material: &Material) -> Option<Named> {
    let held = match name {
        DEFAULT => material.svids.first(),
        id => material.svids.iter().find(|held| held.svid.id().to_string() == id),
    }?;
    Some(Named {
        name: name.to_owned(),
        version: held.svid.serial().to_owned(),
        secret: tls_certificate(name, &held.svid, &held.key),
    })
}

fn roots(name: &str, material: &Material) -> Option<Named> {
    let bundle = &material.bundle;
    let of_one = |domain: &TrustDomain| {
        let roots = bundle.roots(domain);
        (!roots.is_empty()).then(|| Named {
            name: name.to_owned(),
            version: version(bundle, Some(domain)),
            secret: validation_context(name, [(domain, roots)]),
        })
    };
    match name {
        OWN_ROOTS => of_one(material.svids.first()?.svid.id().trust_domain()),
        ALL_ROOTS => Some(Named {
            name: name.to_owned(),
            version: version(bundle, None),
            secret: validation_context(name, bundle.iter()),
        }),
        id => {
            let mut domains = bundle.iter().map(|(domain, _)| domain);
            of_one(domains.find(|domain| domain.id_string() == id)?)
        }
    }
}

/// Of all trust domains, or of one.
fn version(bundle: &Bundle, only: Option<&TrustDomain>) -> String {
    let mut hash = DefaultHasher::new();
    for (domain, roots) in bundle.iter() {
        if only.is_none_or(|only| only == domain) {
            domain.as_str().hash(&mut hash);
            for root in roots {
                root.certificate().as_ref().hash(&mut hash);
            }
        }
    }
    format!("{:016x}", hash.finish())
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
