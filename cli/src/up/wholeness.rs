//! Whether a replica's interception is whole: dialled from the bridge by each
//! of its addresses, the canary must be answered by this replica's sidecar.
//!
//! Invariant: trouble is believed at the second look, which follows at once: a
//! sidecar that starts again in between is none.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::bridge::Bridge;
use super::plan::{Plan, Replica};
use crate::sidecar_client::{self, Canary, SidecarError};

/// From one look to the next while all is well, and while it is not.
const INTERVAL: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);

/// Looks again and again.
#[derive(Debug)]
pub(crate) struct Wholeness {
    bridge: Bridge,
    replica: String,
    /// None for a program that does its own TLS: nothing is captured.
    addresses: Vec<IpAddr>,
    socket: PathBuf,
    due: Instant,
    trouble: Option<String>,
}

impl Wholeness {
    /// Of a sidecar that has just been started.
    pub(crate) fn new(bridge: &Bridge, plan: &Plan, replica: &Replica) -> Self {
        Self {
            bridge: bridge.clone(),
            replica: replica.name.clone(),
            addresses: match replica.is_foreign {
                true => Vec::new(),
                false => replica.addresses.clone(),
            },
            socket: replica.sidecar_socket(&plan.folder),
            due: Instant::now(),
            trouble: None,
        }
    }

    /// What the last look found.
    pub(crate) fn known(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// What is wrong, in one sentence that says what to do. Looks only when it
    /// is time to.
    ///
    /// # Errors
    /// When the sidecar does not say who it is, so that nothing can be told.
    pub(crate) async fn trouble(&mut self) -> Result<Option<&str>, SidecarError> {
        if Instant::now() >= self.due {
            let mut found = self.look().await?;
            if found.is_some() {
                found = self.look().await?;
            }
            let pause = if found.is_some() { RETRY } else { INTERVAL };
            self.due = Instant::now() + pause;
            self.trouble = found;
        }
        Ok(self.trouble.as_deref())
    }

    async fn look(&self) -> Result<Option<String>, SidecarError> {
        if self.addresses.is_empty() {
            return Ok(None);
        }
        let own: Canary = sidecar_client::get(&self.socket, "/canary").await?;
        for address in &self.addresses {
            let problem = match self.bridge.instance_at(*address).await {
                Ok(found) if found == own.instance => continue,
                Ok(_) => "another sidecar answers there".to_owned(),
                Err(error) => error.to_string(),
            };
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            return Ok(Some(format!(
                "calls to {} by {family} ({address}) do not reach its sidecar: {problem}; something has changed the \
                 redirect rules of its network: undo that, or start the mesh again",
                self.replica
            )));
        }
        Ok(None)
    }
}
