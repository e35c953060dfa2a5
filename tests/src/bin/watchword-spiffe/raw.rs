//! Bytes over TLS, without HTTP: how connections end.

use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use watchword_identity::SpiffeId;
use watchword_mtls::{ForeignProtocol, TlsStream, connect_foreign};

use crate::identity::Identity;

const PING: &[u8] = b"ping\n";

/// Says `open`, and how it was ended.
pub(crate) async fn hold(identity: &Identity, address: &str, id: &str) -> Result<()> {
    let mut stream = connect(identity, address, id).await?;
    let mut echoes = 0;
    let ended = loop {
        match echo(&mut stream).await {
            Ok(true) => echoes += 1,
            Ok(false) => break "by its end".to_owned(),
            Err(error) => break format!("by {}", error.kind()),
        }
        if echoes == 1 {
            println!("open");
        }
        sleep(Duration::from_millis(50)).await;
    };
    println!(
        "ended {ended}, after the certificate that it was made with: {}",
        identity.rotations() > 0
    );
    Ok(())
}

async fn echo(stream: &mut TlsStream<TcpStream>) -> std::io::Result<bool> {
    stream.write_all(PING).await?;
    stream.flush().await?;
    let mut answer = [0; PING.len()];
    match stream.read_exact(&mut answer).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && error.get_ref().is_none() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says what came back after its own end.
pub(crate) async fn halve(identity: &Identity, address: &str, id: &str) -> Result<()> {
    let mut stream = connect(identity, address, id).await?;
    stream.write_all(PING).await?;
    // close_notify, and behind it the end of TCP.
    stream.shutdown().await?;
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await?;
    println!("{rest}");
    Ok(())
}

/// Ends TCP in order, and TLS not at all.
pub(crate) async fn vanish(identity: &Identity, address: &str, id: &str) -> Result<()> {
    let mut stream = connect(identity, address, id).await?;
    echo(&mut stream).await?;
    drop(stream);
    println!("gone");
    Ok(())
}

async fn connect(identity: &Identity, address: &str, id: &str) -> Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let generation = identity
        .credentials
        .valid()
        .ok_or_else(|| anyhow::anyhow!("no valid certificate"))?;
    let id = SpiffeId::new(id)?;
    Ok(connect_foreign(&generation, stream, (&id, ForeignProtocol::Any))
        .await?
        .0)
}
