//! Taking over new roots from `rootFile` while the control plane runs.
//!
//! Invariants: a bad file changes nothing and is told once; neither does one
//! that the control plane's own certificate could not stand on. Those who are
//! to verify a new root's leaves know it before the authority goes by it. Roots
//! of other trust domains are none of its business: `snapshots` puts them beside.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use watchword_identity::Bundle;
use watchword_mtls::PublishError;

use super::write_bundle;
use crate::authority::RootFile;
use crate::file_watch::FileWatch;
use crate::issuer::NewRoots;
use crate::own_identity::OwnIdentity;
use crate::snapshots::Snapshots;

/// Between two tries of a file that is good, but can't be taken over yet.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Everybody who is to know of new roots.
pub(super) struct RootFollower {
    pub(super) roots: Arc<RootFile>,
    pub(super) new_roots: Arc<NewRoots>,
    pub(super) snapshots: Snapshots,
    pub(super) own: OwnIdentity,
    pub(super) run_folder: PathBuf,
}

/// Why a good file is not in force yet.
#[derive(Debug, thiserror::Error)]
enum NotYet {
    #[error(
        "the new rootFile lacks the root that the control plane's own certificate stands on, and Vault still signs by \
         it ({0}): make another issuer the mount's default first; the file is tried again"
    )]
    OwnCertificate(PublishError),
    #[error("bundle.pem can't be written: {0}; it is tried again")]
    BundleFile(String),
}

impl RootFollower {
    /// Takes over changes for ever.
    pub(super) async fn follow(self) {
        let mut watch = FileWatch::new(self.roots.path());
        let mut told = String::new();
        let mut waiting = None;
        loop {
            let (roots, clock) = (Arc::clone(&self.roots), Arc::clone(&self.own.clock));
            let read = move || roots.read_next(clock.now());
            let next = tokio::select! {
                read = watch.changed(read) => read,
                Some(bundle) = again(waiting.clone()) => Ok(bundle),
            };
            waiting = None;
            let problem = match next {
                Ok(bundle) => match self.take_over(&bundle).await {
                    Ok(()) => String::new(),
                    Err(not_yet) => {
                        waiting = Some(bundle);
                        not_yet.to_string()
                    }
                },
                Err(problem) => problem,
            };
            if !problem.is_empty() && problem != told {
                tracing::error!(problem, "rootFile is not taken over; the roots before stay in force");
            }
            told = problem;
        }
    }

    async fn take_over(&self, next: &Bundle) -> Result<(), NotYet> {
        let (before, domain) = (self.roots.in_force(), self.roots.domain());
        if *before == *next {
            return self.write(next);
        }
        self.stand_on(next).await?;
        let version = self.snapshots.publish_own_roots(next);
        self.new_roots.announce(domain, &before, next, version);
        self.roots.put_in_force(next.clone());
        let (roots, count) = (next.roots(domain), before.roots(domain));
        let added = roots.iter().filter(|root| !count.contains(root)).count();
        let removed = count.iter().filter(|root| !roots.contains(root)).count();
        tracing::info!(version, added, removed, "new roots are in force");
        self.write(next)
    }

    /// Our own trust first: who renews with a new leaf must be let in.
    async fn stand_on(&self, next: &Bundle) -> Result<(), NotYet> {
        if self.own.credentials.publish_bundle(next.clone()).is_ok() {
            return Ok(());
        }
        // Vault may sign by a root that stays.
        if let Err(error) = self.own.renew().await {
            tracing::warn!(%error, "no certificate of our own on the new roots");
        }
        let stands = self.own.credentials.publish_bundle(next.clone());
        stands.map(|_| ()).map_err(NotYet::OwnCertificate)
    }

    fn write(&self, bundle: &Bundle) -> Result<(), NotYet> {
        write_bundle(&self.run_folder, bundle, self.roots.domain())
            .map_err(|error| NotYet::BundleFile(error.to_string()))
    }
}

async fn again(waiting: Option<Bundle>) -> Option<Bundle> {
    waiting.as_ref()?;
    tokio::time::sleep(TRY_AGAIN).await;
    waiting
}
