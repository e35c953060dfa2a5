//! Memory for proxies that are connected and follow what they are told.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use watchword_benches::report::Report;
use watchword_identity::Svid;
use watchword_mtls::{ControlClient, Credentials};
use watchword_proto::control::subscribe_request::Message;
use watchword_proto::control::{Ack, DiscoveryClient, Hello, SnapshotUpdate, SubscribeRequest};

use crate::Size;
use crate::plane::{AT_ONCE, Plane, attest, now};

const PART: &str = "proxies that are connected (embedded authority)";
/// First certificates by one connection, which is closed after 30 s.
const BY_ONE: usize = 500;
/// Kinds of snapshots that each is told first.
const SNAPSHOTS: usize = 3;

/// Keeps a proxy connected.
struct Connected {
    _requests: tokio::sync::mpsc::Sender<SubscribeRequest>,
    _updates: tonic::Streaming<SnapshotUpdate>,
    _channel: Channel,
}

pub(crate) async fn measure(size: Size, report: &mut Report) -> Result<()> {
    let plane = Arc::new(Plane::start("authority: embedded")?);
    let tokens = plane.tokens(size.connected).await?;
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut identities = Vec::new();
    for tokens in tokens.chunks(BY_ONE) {
        let anonymous = plane.channel(plane.anonymous()?).await?;
        let mut workloads = JoinSet::new();
        for token in tokens {
            let (slots, channel, token) = (Arc::clone(&slots), anonymous.clone(), token.clone());
            workloads.spawn(async move {
                let _slot = slots.acquire().await?;
                attest(&channel, token).await
            });
        }
        while let Some(workload) = workloads.join_next().await {
            identities.push(workload??);
        }
    }
    let before = plane.memory()?;
    let mut proxies = JoinSet::new();
    for (chain, key) in identities {
        let (slots, plane) = (Arc::clone(&slots), Arc::clone(&plane));
        proxies.spawn(async move {
            let _slot = slots.acquire().await?;
            let client = client(&plane, chain, &key)?;
            subscribe(plane.channel(client).await?).await
        });
    }
    let mut connected = Vec::new();
    while let Some(proxy) = proxies.join_next().await {
        connected.push(proxy??);
    }
    let used = plane.memory()?.saturating_sub(before);
    report.add(PART, "connected", number(connected.len() as u64), "")?;
    report.add(PART, "memory before", number(before) / 1048576.0, "MiB")?;
    report.add(PART, "memory for all of them", number(used) / 1048576.0, "MiB")?;
    report.add(
        PART,
        "memory for each",
        number(used) / number(connected.len() as u64) / 1024.0,
        "KiB",
    )
}

/// As that workload.
fn client(plane: &Plane, chain: Vec<Vec<u8>>, key: &rcgen::KeyPair) -> Result<ControlClient> {
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let credentials = Credentials::new(now());
    credentials.publish(&Svid::from_chain(chain)?, &key, plane.bundle()?)?;
    credentials.control_client().context("it was published")
}

async fn subscribe(channel: Channel) -> Result<Connected> {
    let (requests, outgoing) = tokio::sync::mpsc::channel(8);
    let hello = Message::Hello(Hello {
        instance: "bench".into(),
        policy_schema: watchword_proto::POLICY_SCHEMA,
    });
    requests.send(SubscribeRequest { message: Some(hello) }).await?;
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut client = DiscoveryClient::new(channel.clone());
    let mut updates = client.subscribe(outgoing).await?.into_inner();
    for _ in 0..SNAPSHOTS {
        let update = updates.next().await.context("the stream ended")??;
        let ack = Message::Ack(Ack { nonce: update.nonce });
        requests.send(SubscribeRequest { message: Some(ack) }).await?;
    }
    Ok(Connected {
        _requests: requests,
        _updates: updates,
        _channel: channel,
    })
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn number(count: u64) -> f64 {
    count as f64
}
