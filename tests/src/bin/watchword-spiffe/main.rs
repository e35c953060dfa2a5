//! A program in Rust with an identity by the `spiffe` crate's X509Source, as
//! users write it; TLS is rustls, by way of the mesh's own crate. It has the
//! command line of the peers in tests/tools.
//!
//! ```text
//! watchword-spiffe serve PORT     says to each caller who it is
//! watchword-spiffe call URL ID    one GET from whoever must be ID
//! watchword-spiffe load URL ID    GETs until SIGTERM, then counts as JSON
//! watchword-spiffe hold ADDRESS ID       echoes over bare TLS until it is ended
//! watchword-spiffe halve ADDRESS ID      ends its direction, reads to the end
//! watchword-spiffe vanish ADDRESS ID     ends TCP without a word of TLS
//! ```
#![allow(clippy::print_stdout, missing_docs)]

mod calls;
mod identity;
mod raw;

use std::convert::Infallible;
use std::net::Ipv6Addr;

use anyhow::{Context, Result, bail};
use hyper::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use watchword_mtls::{Accepted, ForeignProtocol, accept};

use identity::Identity;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let identity = Identity::from_environment().await?;
    match words[..] {
        ["serve", port] => serve(&identity, port.parse()?).await,
        ["call", url, id] => {
            let answer = calls::call(&identity, url, id).await?;
            println!("{}", answer.trim_end());
            Ok(())
        }
        ["load", url, id] => calls::load(&identity, url, id).await,
        ["hold", address, id] => raw::hold(&identity, address, id).await,
        ["halve", address, id] => raw::halve(&identity, address, id).await,
        ["vanish", address, id] => raw::vanish(&identity, address, id).await,
        _ => bail!(
            "usage: serve PORT | call URL ID | load URL ID | hold ADDRESS ID | halve ADDRESS ID | vanish ADDRESS ID"
        ),
    }
}

async fn serve(identity: &Identity, port: u16) -> Result<()> {
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await?,
    };
    println!("serving");
    loop {
        let (stream, _) = listener.accept().await?;
        let identity = identity.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(&identity, stream).await {
                println!("a caller got no answer: {error:#}");
            }
        });
    }
}

async fn answer(identity: &Identity, stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let generation = identity.credentials.valid().context("no valid certificate")?;
    let Accepted::Foreign(tls, peer) = accept(&generation, stream, ForeignProtocol::Http1).await? else {
        bail!("a tunnel is not for us");
    };
    let hello = format!("hello from rust, you are {}\n", peer.id());
    let service = service_fn(move |_| {
        let hello = hello.clone();
        async move { Ok::<_, Infallible>(Response::new(hello)) }
    });
    http1::Builder::new()
        .serve_connection(TokioIo::new(tls), service)
        .await?;
    Ok(())
}
