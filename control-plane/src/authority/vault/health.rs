//! Asks each address of Vault how it fares, without logging in: for people who
//! look why nothing is signed.

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Full;
use serde::Deserialize;

use super::endpoint::Endpoint;
use super::pinned;
use super::tls::Generation;
use crate::mesh_file::{VaultAddress, VaultSettings};

const MAX_HEALTH: usize = 16 * 1024;
/// Answers whatever Vault's state is, and needs no token.
const PATH: &str = "/v1/sys/health";

/// What an address of Vault says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct VaultHealth {
    /// Whether it was ever set up.
    pub initialized: bool,
    /// Whether its keys are locked.
    pub sealed: bool,
    /// Whether it leaves the work to another one.
    pub standby: bool,
    /// Of the program.
    pub version: String,
    /// Its clock, in Unix seconds.
    pub server_time_utc: u64,
}

/// Asks all addresses at once, for a few seconds. The inner errors are in words.
///
/// # Errors
/// When the files that TLS needs can't be used.
pub async fn ask_health(settings: &VaultSettings) -> Result<Vec<(VaultAddress, Result<VaultHealth, String>)>, String> {
    let tls = match &settings.ca_file {
        Some(file) => Some(pinned(file, settings).map_err(|error| error.to_string())?.current()?),
        None => None,
    };
    let asked = settings.addresses.iter().map(|address| {
        let (address, tls) = (address.clone(), tls.clone());
        tokio::spawn(async move {
            let answer = ask(&address, tls.as_ref()).await;
            (address, answer)
        })
    });
    let asked: Vec<_> = asked.collect();
    let mut answers = Vec::new();
    for task in asked {
        answers.extend(task.await);
    }
    Ok(answers)
}

async fn ask(address: &VaultAddress, tls: Option<&Generation>) -> Result<VaultHealth, String> {
    let request = Request::builder()
        .method(Method::GET)
        .uri(PATH)
        .header(header::HOST, address.authority())
        .body(Full::<Bytes>::default())
        .map_err(|error| error.to_string())?;
    let endpoint = Endpoint::new(address.clone(), MAX_HEALTH);
    let reply = endpoint.exchange(request, tls).await?;
    serde_json::from_slice(&reply.body).map_err(|_| format!("it answers with {}, and not as Vault does", reply.status))
}
