//! What the log says of other trust domains: whose workloads may be believed,
//! from when on, and where nobody can be.

use std::time::SystemTime;

use watchword_identity::Bundle;

/// Says what changes from `before` to `next`.
pub(super) fn tell(before: &Bundle, next: &Bundle, now: SystemTime) {
    for (trust_domain, roots) in next.iter() {
        if roots == before.roots(trust_domain) {
            continue;
        }
        tracing::info!(%trust_domain, roots = roots.len(), "roots of another trust domain are in force");
        if !roots.iter().any(|root| root.is_valid_at(now)) {
            tracing::warn!(
                %trust_domain,
                "none of the roots of another trust domain is valid now, so all who come from there are refused: put \
                 one into its file under `trustBundles` that is, or compare the clock"
            );
        }
    }
    for (trust_domain, _) in before.iter() {
        if next.roots(trust_domain).is_empty() {
            tracing::info!(%trust_domain, "another trust domain is not known any more");
        }
    }
}
