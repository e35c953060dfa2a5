//! The pages of `proxy-admin.sock`: what this sidecar is, knows and does. For
//! its operator alone: the app can't open the socket.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use tokio::net::UnixListener;
use watchword_daemon::{Metrics, Page, Pages, Readiness};
use watchword_mtls::Credentials;

use crate::canary::Canary;
use crate::config::Config;
use crate::connection::Connections;
use crate::control::identity::RenewalTrouble;
use crate::snapshots::Snapshots;
use crate::unix_socket;

/// What the pages show.
pub(crate) struct Shown {
    pub(crate) config: Arc<Config>,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    pub(crate) credentials: Credentials,
    pub(crate) trouble: RenewalTrouble,
    pub(crate) connections: Connections,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) canary: Canary,
}

#[derive(Serialize)]
struct Certificate {
    spiffe_id: String,
    serial: String,
    /// Unix seconds.
    not_before: u64,
    /// Unix seconds.
    not_after: u64,
    generation: u64,
    /// Base64 of DER, leaf first.
    chain: Vec<String>,
    trust_domains: Vec<String>,
    /// Why there is no newer one, while that was tried in vain.
    renewal_trouble: Option<String>,
}

/// What port 15099 answers with.
#[derive(Serialize)]
struct Instance<'a> {
    instance: &'a str,
}

#[derive(Serialize)]
struct Policies<'a> {
    /// Null before the first snapshot.
    policies: Option<&'a [String]>,
    services_in_directory: Option<usize>,
}

/// All pages.
pub(crate) fn pages(shown: Shown) -> Pages {
    let Shown {
        config,
        readiness,
        metrics,
        credentials,
        trouble,
        connections,
        snapshots,
        canary,
    } = shown;
    Pages::of_daemon(readiness, metrics)
        .with("/config", move || Page::text(format!("{config:#?}\n")))
        .with("/certs", move || Page::json(certificates(&credentials, &trouble)))
        .with("/connections", move || Page::json(connections.to_json()))
        .with("/canary", move || {
            Page::json(to_json(&Instance {
                instance: canary.instance(),
            }))
        })
        .with("/policy", move || Page::json(policies(&snapshots)))
}

fn certificates(credentials: &Credentials, trouble: &RenewalTrouble) -> String {
    let shown = credentials.current().map(|current| Certificate {
        spiffe_id: current.svid().id().to_string(),
        serial: current.svid().serial().to_owned(),
        not_before: unix_seconds(current.svid().not_before()),
        not_after: unix_seconds(current.svid().not_after()),
        generation: current.number(),
        chain: current.svid().chain().iter().map(|it| STANDARD.encode(it)).collect(),
        trust_domains: current.bundle().iter().map(|(domain, _)| domain.to_string()).collect(),
        renewal_trouble: trouble.get(),
    });
    to_json(&shown)
}

fn policies(snapshots: &Snapshots) -> String {
    let names = snapshots.policy_names();
    to_json(&Policies {
        policies: names.as_ref().map(|names| names.as_slice()),
        services_in_directory: snapshots.directory().map(|directory| directory.service_count()),
    })
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Binds `proxy-admin.sock`, for this uid alone.
///
/// # Errors
/// See [`unix_socket::bind`].
pub(crate) fn bind(folder: &Path) -> anyhow::Result<UnixListener> {
    let path = folder.join("proxy-admin.sock");
    unix_socket::bind(&path, 0o600, ("admin socket", "runDir"))
}
