//! Calls over mutual TLS: one, or many until SIGTERM.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};
use watchword_identity::SpiffeId;
use watchword_mtls::{ForeignProtocol, connect_foreign};

use crate::identity::Identity;

const DEADLINE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

type Sender = SendRequest<Empty<Bytes>>;

/// One GET on a connection of its own.
pub(crate) async fn call(identity: &Identity, url: &str, id: &str) -> Result<String> {
    let (uri, id) = (url.parse()?, SpiffeId::new(id)?);
    let called = async {
        let mut sender = connect(identity, &uri, &id).await?;
        Ok(get(&mut sender, &uri).await?.0)
    };
    timeout(DEADLINE, called).await.context("no answer in time")?
}

/// In turns on a kept connection and on fresh ones.
pub(crate) async fn load(identity: &Identity, url: &str, id: &str) -> Result<()> {
    let (uri, id): (Uri, _) = (url.parse()?, SpiffeId::new(id)?);
    let mut stop = signal(SignalKind::terminate())?;
    let (mut calls, mut failed, mut first_error) = (0_u64, 0_u64, String::new());
    let mut kept = None;
    let mut stopped = std::pin::pin!(stop.recv());
    loop {
        let is_kept = calls % 2 == 0;
        calls += 1;
        let on = if is_kept { kept.take() } else { None };
        match timeout(DEADLINE, one(identity, &uri, &id, on))
            .await
            .context("no answer in time")
            .flatten()
        {
            Ok(sender) if is_kept => kept = sender,
            Ok(_) => {}
            Err(error) => {
                failed += 1;
                if first_error.is_empty() {
                    first_error = format!("{}: {error:#}", if is_kept { "kept" } else { "fresh" });
                }
            }
        }
        tokio::select! {
            _ = &mut stopped => break,
            () = sleep(PAUSE) => {}
        }
    }
    let counts = serde_json::json!({
        "calls": calls, "failed": failed, "rotations": identity.rotations(), "firstError": first_error,
    });
    println!("{counts}");
    Ok(())
}

/// The connection, where the server keeps it open.
async fn one(identity: &Identity, uri: &Uri, id: &SpiffeId, kept: Option<Sender>) -> Result<Option<Sender>> {
    let mut sender = match kept {
        Some(kept) => kept,
        None => connect(identity, uri, id).await?,
    };
    let (_, stays) = get(&mut sender, uri).await?;
    Ok(stays.then_some(sender))
}

async fn connect(identity: &Identity, uri: &Uri, id: &SpiffeId) -> Result<Sender> {
    let host = uri.host().context("the URL has no host")?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    stream.set_nodelay(true)?;
    let generation = identity.credentials.valid().context("no valid certificate")?;
    let (tls, _) = connect_foreign(&generation, stream, (id, ForeignProtocol::Http1)).await?;
    let (sender, connection) = handshake(TokioIo::new(tls)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn get(sender: &mut Sender, uri: &Uri) -> Result<(String, bool)> {
    sender.ready().await?;
    let request = Request::get(uri.path())
        .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .body(Empty::new())?;
    let answer = sender.send_request(request).await?;
    let (status, stays) = (
        answer.status(),
        answer.headers().get(CONNECTION).is_none_or(|value| value != "close"),
    );
    let body = answer.into_body().collect().await?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    ensure!(status == StatusCode::OK, "status {status}: {body}");
    Ok((body, stays))
}
