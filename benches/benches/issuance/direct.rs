//! Vault's own client: signs over one kept connection, as the fastest caller
//! without a control plane would.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use watchword_mtls::OutsideClient;
use watchword_tests::{MOUNT, Vault};

use crate::WORKLOAD;

pub(crate) struct Direct {
    sender: SendRequest<Full<Bytes>>,
    token: String,
}

impl Direct {
    pub(crate) async fn connect(vault: &Vault) -> Result<Self> {
        let token = std::fs::read_to_string(vault.token_file(&[])?)?.trim().to_owned();
        let tls = OutsideClient::new(&std::fs::read(vault.ca_file())?, None)?;
        let authority = vault.address().trim_start_matches("https://").to_owned();
        let stream = TcpStream::connect(&authority).await?;
        stream.set_nodelay(true)?;
        let host = authority.split(':').next().context("Vault's address has a host")?;
        let stream = tls.connect(stream, host).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, token })
    }

    /// One certificate.
    pub(crate) async fn sign(&mut self) -> Result<()> {
        let (_key, csr) = crate::request()?;
        let body = json!({
            "csr": csr.pem()?,
            "uri_sans": WORKLOAD,
            "ttl": "3600s",
            "format": "pem",
            "exclude_cn_from_sans": true,
        });
        let request = Request::post(format!("/v1/{MOUNT}/sign/mesh"))
            .header(header::HOST, "vault")
            .header("X-Vault-Token", &self.token)
            .body(Full::new(Bytes::from(body.to_string())))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body));
        let answer: Value = serde_json::from_slice(&body)?;
        ensure!(answer["data"]["certificate"].is_string(), "no certificate");
        Ok(())
    }
}
