//! Snapshots that the control plane pushes: validated, put in force, and
//! acknowledged; or rejected with the reason, and what was in force stays.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use watchword_daemon::{Blocker, Clock, explain, sleep_until};
use watchword_identity::schedule::pause_after;
use watchword_mtls::Credentials;
use watchword_proto::control::{
    Ack, DiscoveryClient, Hello, Nack, SnapshotUpdate, SubscribeRequest, snapshot_update::Resource,
    subscribe_request::Message,
};
use watchword_proto::directory::Directory;
use watchword_proto::{POLICY_SCHEMA, bundle_from_proto, policies_from_proto};

use super::bundles::{Bundles, Number};
use super::channel::{CALL_DEADLINE, ControlPlane, MAX_MESSAGE};
use super::freshness::Freshness;
use crate::directory::DirectoryIndex;
use crate::snapshots::Snapshots;
use crate::telemetry::Telemetry;

/// Answers wait for the stream at most this many deep; each update has one.
const ANSWERS: usize = 16;

/// Follows the control plane's stream.
pub(crate) struct Follower {
    pub(crate) control_plane: ControlPlane,
    pub(crate) credentials: Credentials,
    pub(crate) bundles: Bundles,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) telemetry: Telemetry,
    pub(crate) freshness: Freshness,
    pub(crate) instance: String,
    pub(crate) policies_blocker: Blocker,
    pub(crate) directory_blocker: Blocker,
}

/// The newest epoch and version of each kind that was put in force.
type Seen = HashMap<&'static str, (u64, u64)>;

impl Follower {
    /// Runs until it is dropped: a stream that ends is opened again, with a
    /// pause that grows while nothing comes.
    pub(crate) async fn follow(self) {
        let mut failures = 0;
        let mut seen = Seen::new();
        let mut generations = self.credentials.changes();
        loop {
            if self.credentials.valid().is_none() {
                // Before the first certificate, and after it has expired.
                let _ = generations.changed().await;
                continue;
            }
            let ended = self.subscribe(&mut seen).await;
            self.freshness.lost(self.clock.now());
            match ended {
                Ok(updates) if updates > 0 => failures = 0,
                Ok(_) => failures += 1,
                Err(reason) => {
                    failures += 1;
                    tracing::warn!(
                        reason,
                        failures,
                        "the control plane's stream broke; the last snapshots stay"
                    );
                }
            }
            let pause = pause_after(failures, std::time::Duration::MAX, fastrand::f64());
            sleep_until(&self.clock, self.clock.now() + pause).await;
        }
    }

    /// One stream, to its end. Returns how many updates came by it.
    async fn subscribe(&self, seen: &mut Seen) -> Result<u64, String> {
        let client = self.credentials.control_client().ok_or("no valid certificate")?;
        let serial = self.serial();
        let channel = self
            .control_plane
            .connect(client, CALL_DEADLINE)
            .await
            .map_err(|error| explain(&error))?;
        if self.serial() != serial {
            // To use a certificate that was replaced meanwhile would look like
            // a thief's try, and freeze the lineage.
            return Err("the certificate was replaced while connecting".into());
        }
        let (answers, requests) = mpsc::channel(ANSWERS);
        let hello = Hello {
            instance: self.instance.clone(),
            policy_schema: POLICY_SCHEMA,
        };
        answers
            .send(request(Message::Hello(hello)))
            .await
            .map_err(|_| "the stream closed at once")?;
        let mut updates = DiscoveryClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .subscribe(ReceiverStream::new(requests))
            .await
            .map_err(|status| format!("{:?}: {}", status.code(), status.message()))?
            .into_inner();
        let mut count = 0;
        loop {
            let update = match updates.message().await {
                Ok(Some(update)) => update,
                Ok(None) => return Ok(count),
                // Its certificate's end closes a stream: no trouble as such.
                Err(status) if count > 0 => {
                    tracing::info!(reason = status.message(), "the control plane closed the stream");
                    return Ok(count);
                }
                Err(status) => return Err(format!("{:?}: {}", status.code(), status.message())),
            };
            count += 1;
            if answers.send(self.answer(update, seen)).await.is_err() {
                return Ok(count);
            }
        }
    }

    fn serial(&self) -> Option<String> {
        self.credentials
            .current()
            .map(|current| current.svid().serial().to_owned())
    }

    fn answer(&self, update: SnapshotUpdate, seen: &mut Seen) -> SubscribeRequest {
        let SnapshotUpdate {
            epoch,
            version,
            nonce,
            resource,
        } = update;
        let kind = kind(resource.as_ref());
        let result = self
            .not_older(kind, (epoch, version), seen)
            .and_then(|()| self.apply((epoch, version), resource));
        match result {
            Ok(()) => {
                seen.insert(kind, (epoch, version));
                self.freshness.confirmed(kind);
                self.telemetry.snapshot(kind, "accepted");
                tracing::info!(kind, epoch, version, "snapshot in force");
                request(Message::Ack(Ack { nonce }))
            }
            Err(reason) => {
                self.telemetry.snapshot(kind, "rejected");
                tracing::error!(
                    kind,
                    epoch,
                    version,
                    reason,
                    "snapshot rejected; the last good one stays"
                );
                request(Message::Nack(Nack { nonce, reason }))
            }
        }
    }

    /// A replayed or rolled-back state must not undo a newer one.
    fn not_older(&self, kind: &'static str, new: (u64, u64), seen: &Seen) -> Result<(), String> {
        match seen.get(kind) {
            Some(last) if new < *last => Err(format!(
                "epoch {} version {} is older than {} {} that is in force",
                new.0, new.1, last.0, last.1
            )),
            _ => Ok(()),
        }
    }

    fn apply(&self, number: Number, resource: Option<Resource>) -> Result<(), String> {
        match resource {
            Some(Resource::Bundle(bundle)) => {
                let bundle = bundle_from_proto(bundle).map_err(|error| error.to_string())?;
                self.bundles.pushed(number, bundle).map_err(|error| error.to_string())?;
            }
            Some(Resource::Policies(policies)) => {
                let policies = policies_from_proto(policies).map_err(|error| error.to_string())?;
                self.snapshots.set_policies(policies);
                self.policies_blocker.clear();
            }
            Some(Resource::Directory(directory)) => {
                let directory = Directory::try_from(directory).map_err(|error| error.to_string())?;
                self.snapshots.set_directory(DirectoryIndex::new(&directory));
                self.directory_blocker.clear();
            }
            None => return Err("a kind of snapshot that this version does not know".into()),
        }
        Ok(())
    }
}

fn kind(resource: Option<&Resource>) -> &'static str {
    match resource {
        Some(Resource::Bundle(_)) => "bundle",
        Some(Resource::Policies(_)) => "policies",
        Some(Resource::Directory(_)) => "directory",
        None => "unknown",
    }
}

fn request(message: Message) -> SubscribeRequest {
    SubscribeRequest { message: Some(message) }
}

#[cfg(test)]
#[path = "discovery_tests.rs"]
mod tests;
