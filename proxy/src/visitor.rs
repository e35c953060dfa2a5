//! Who calls, and where: what all that comes by one tunnel has in common.
//!
//! Invariant: it never changes; what is judged of it is asked anew each time.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use watchword_identity::SpiffeId;
use watchword_policy::Principal;

use crate::ended::Verdict;
use crate::http::app_pool::AppKey;
use crate::mesh::Mesh;

/// A caller and where it called.
pub(crate) struct Visitor {
    pub(crate) mesh: Mesh,
    pub(crate) from: SocketAddr,
    pub(crate) dialled: SocketAddr,
    pub(crate) peer: Principal,
    pub(crate) own: SpiffeId,
    /// As text, which each request needs: who calls and who is called.
    pub(crate) peer_text: Arc<str>,
    pub(crate) own_text: String,
    /// For metrics.
    pub(crate) peer_label: Arc<str>,
    /// SHA-256 of the leaf that the caller proved.
    leaf: Option<[u8; 32]>,
    client_cert: OnceLock<Option<HeaderValue>>,
    /// The workload calls itself.
    pub(crate) is_itself: bool,
}

/// The two ends of a call, for a [`Visitor`].
pub(crate) struct Ends {
    pub(crate) from: SocketAddr,
    pub(crate) dialled: SocketAddr,
    pub(crate) is_itself: bool,
}

impl Visitor {
    pub(crate) fn new(mesh: Mesh, ends: &Ends, (peer, own): (SpiffeId, SpiffeId), leaf: [u8; 32]) -> Self {
        Self::with(mesh, ends, (Principal::Workload(peer), own), Some(leaf))
    }

    /// One that has proved nothing.
    pub(crate) fn unauthenticated(mesh: Mesh, ends: &Ends, own: SpiffeId) -> Self {
        Self::with(mesh, ends, (Principal::Unauthenticated, own), None)
    }

    fn with(mesh: Mesh, ends: &Ends, (peer, own): (Principal, SpiffeId), leaf: Option<[u8; 32]>) -> Self {
        let peer_text: Arc<str> = peer.to_string().into();
        Self {
            peer_label: mesh.connections.telemetry().peer_label(&peer_text),
            mesh,
            peer_text,
            own_text: own.to_string(),
            from: ends.from,
            dialled: ends.dialled,
            peer,
            own,
            leaf,
            client_cert: OnceLock::new(),
            is_itself: ends.is_itself,
        }
    }

    /// Whether caller and called are of one trust domain, and may know each
    /// other's policies.
    pub(crate) fn is_of_our_domain(&self) -> bool {
        let peer = self.peer.id();
        peer.is_some_and(|peer| peer.trust_domain() == self.own.trust_domain())
    }

    /// What it asked for was denied, or, with `audit`, would have been. To be
    /// shown to people.
    pub(crate) fn note_denial(&self, reason: &'static str, by: &Verdict, shown: (Option<String>, bool)) {
        let called = (&self.peer_text, self.from.ip(), self.dialled.port());
        self.mesh.connections.note_denial(called, (reason, by), shown);
    }

    /// Whose connections to the app may serve this one.
    pub(crate) fn app_key(&self) -> AppKey {
        AppKey {
            peer: Arc::clone(&self.peer_text),
            from: self.from.ip(),
            dialled: self.dialled,
        }
    }

    /// The value of `x-forwarded-client-cert`: who was called, the hash of the
    /// caller's leaf, and who called (Envoy, "x-forwarded-client-cert").
    /// Nothing of who proved nothing.
    pub(crate) fn client_cert(&self) -> Option<&HeaderValue> {
        let form = || {
            let hash: String = self.leaf?.iter().map(|byte| format!("{byte:02x}")).collect();
            // A SPIFFE ID has none of the characters that would need quotes.
            HeaderValue::try_from(format!("By={};Hash={hash};URI={}", self.own_text, self.peer_text)).ok()
        };
        self.client_cert.get_or_init(form).as_ref()
    }
}
