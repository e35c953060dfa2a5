//! What a caller has at one moment.

use std::sync::Arc;

use watchword_identity::{Bundle, Svid};
use zeroize::Zeroizing;

/// An SVID and its key.
pub(crate) struct Held {
    pub(crate) svid: Svid,
    /// PKCS#8, DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
}

/// All that a caller is told.
pub(crate) struct Material {
    /// At least one: the first is the default.
    pub(crate) svids: Vec<Arc<Held>>,
    pub(crate) bundle: Arc<Bundle>,
}

impl Material {
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let same_svids = self.svids.len() == other.svids.len()
            && self.svids.iter().zip(&other.svids).all(|(a, b)| Arc::ptr_eq(a, b));
        same_svids && self.bundle == other.bundle
    }
}

/// The newest of a caller.
#[derive(Clone)]
pub(crate) enum Latest {
    /// Asked for.
    Waiting,
    /// Valid when it was published, and replaced before it ends.
    Ready(Arc<Material>),
    /// There is none: why.
    None(Failure),
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Decided, so that to ask again changes nothing by itself.
    pub(crate) denied: bool,
    pub(crate) reason: Arc<str>,
}
