//! When a connection with a foreign peer is over, whoever made it: nothing can
//! vouch for it, so it ends with the certificates that it stands on, or with
//! the trust in them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use watchword_daemon::{Clock, sleep_until};
use watchword_identity::Usage;
use watchword_mtls::{Credentials, Generation, Peer, verify_chain};
use watchword_proto::tunnel::Reason;

/// The peer is told to leave when this part of the connection's time is left.
const GOODBYE: u32 = 8;
/// Who did not need it meanwhile is left when this part is.
const LAST: u32 = 16;

/// What a handshake stood on, and so when it must be made again.
pub(crate) struct ForeignEnd {
    credentials: Credentials,
    clock: Arc<dyn Clock>,
    peer: Peer,
    /// The generation that judged the peer.
    generation: u64,
    began: SystemTime,
    expires: SystemTime,
}

impl ForeignEnd {
    pub(crate) fn new(
        (credentials, clock): (&Credentials, &Arc<dyn Clock>),
        peer: Peer,
        generation: &Generation,
    ) -> Self {
        Self {
            credentials: credentials.clone(),
            clock: Arc::clone(clock),
            generation: generation.number(),
            began: clock.now(),
            expires: peer.svid().not_after().min(generation.svid().not_after()),
            peer,
        }
    }

    /// Resolves when requests should go elsewhere from now on.
    pub(crate) async fn goodbye(&self) {
        sleep_until(&self.clock, self.when_left(GOODBYE)).await;
    }

    /// Resolves when nothing new may begin.
    pub(crate) async fn last(&self) {
        sleep_until(&self.clock, self.when_left(LAST)).await;
    }

    /// Resolves when the connection must be cut.
    pub(crate) async fn over(&self, role: Usage) -> Reason {
        tokio::select! {
            () = sleep_until(&self.clock, self.expires) => Reason::Expired,
            () = self.untrusted(role) => Reason::Untrusted,
        }
    }

    fn when_left(&self, part: u32) -> SystemTime {
        let whole = self.expires.duration_since(self.began).unwrap_or(Duration::ZERO);
        self.expires - whole / part
    }

    /// A changed bundle that does not vouch for the peer any more. It may have
    /// changed since the handshake already.
    async fn untrusted(&self, role: Usage) {
        let mut generations = self.credentials.changes();
        let mut judged = self.generation;
        loop {
            let newer = self.credentials.current().filter(|current| current.number() != judged);
            if let Some(current) = newer {
                judged = current.number();
                let chain = self.peer.svid().chain().to_vec();
                if verify_chain(chain, current.bundle(), role, self.clock.now()).is_err() {
                    return;
                }
            }
            if generations.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
#[path = "foreign_end_tests.rs"]
mod tests;
