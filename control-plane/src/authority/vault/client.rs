//! Calls Vault's API by whichever address works.
//!
//! Invariants: a token goes to the configured addresses only, redirects are
//! never followed; what Vault answers is shown without the secrets of the
//! request, shortened, and without control characters; no more than
//! [`MAX_AT_ONCE`] calls are under way.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::endpoint::{Endpoint, MAX_AT_ONCE, Reply, longest_rest};
use super::error::CallError;
use super::secret::Secret;
use super::tls::Tls;
use crate::mesh_file::VaultAddress;

const MAX_REASON: usize = 600;

/// One call.
pub(super) struct Call<'a> {
    /// Below `/v1/`.
    pub(super) path: String,
    pub(super) token: Option<&'a Secret>,
    /// JSON; none for a read.
    pub(super) body: Option<&'a Value>,
    /// The secrets in the body.
    pub(super) secrets: &'a [&'a Secret],
}

/// Knows all addresses.
pub(super) struct Client {
    endpoints: Vec<Endpoint>,
    tls: Option<Tls>,
    namespace: Option<HeaderValue>,
    slots: Semaphore,
    /// Of what was signed last; none before the first.
    lifetime: Mutex<Option<Duration>>,
}

/// What one address made of a call.
enum Outcome {
    Answer(Zeroizing<Vec<u8>>),
    /// Another address would say the same.
    Final(CallError),
    /// Not this address now.
    Unwell(String, Option<Duration>),
}

impl Client {
    /// Answers have `longest` bytes at most.
    pub(super) fn new(
        addresses: &[VaultAddress],
        tls: Option<Tls>,
        namespace: Option<&str>,
        longest: usize,
    ) -> Result<Self, http::header::InvalidHeaderValue> {
        let endpoints = addresses.iter().map(|address| Endpoint::new(address.clone(), longest));
        Ok(Self {
            endpoints: endpoints.collect(),
            tls,
            namespace: namespace.map(HeaderValue::from_str).transpose()?,
            slots: Semaphore::new(MAX_AT_ONCE),
            lifetime: Mutex::default(),
        })
    }

    /// Certificates live for so long now: addresses rest for a small part of it.
    pub(super) fn certificates_live_for(&self, lifetime: Duration) {
        *self.lifetime.lock().unwrap_or_else(PoisonError::into_inner) = Some(lifetime);
    }

    fn longest_rest(&self) -> Duration {
        longest_rest(*self.lifetime.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The file of the certificate that Vault is shown.
    pub(super) fn certificate_file(&self) -> Option<&PathBuf> {
        self.tls.as_ref().and_then(Tls::certificate_file)
    }

    /// Calls the first address that works, and reads the answer. Waits for its
    /// turn first; how long is for the caller to bound.
    pub(super) async fn call<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, CallError> {
        // Never closed.
        let _slot = self.slots.acquire().await;
        let tls = self.tls.as_ref().map(Tls::current).transpose();
        let tls = tls.map_err(CallError::Unavailable)?;
        let mut reasons = Vec::new();
        for endpoint in &self.endpoints {
            let address = endpoint.address();
            let round = match endpoint.may_call() {
                Ok(round) => round,
                Err(why) => {
                    reasons.push(format!("{address}: {why}"));
                    continue;
                }
            };
            let request = self.request(address, call)?;
            let outcome = match endpoint.exchange(request, tls.as_ref()).await {
                Ok(reply) => judge(&reply, call),
                Err(why) => Outcome::Unwell(why, None),
            };
            let (why, retry_after) = match outcome {
                Outcome::Answer(body) => match serde_json::from_slice(&body) {
                    Ok(answer) => {
                        endpoint.is_well();
                        return Ok(answer);
                    }
                    // Its text may quote what it read: a token perhaps.
                    Err(error) => (
                        format!(
                            "an answer that is not Vault's (line {}, column {})",
                            error.line(),
                            error.column()
                        ),
                        None,
                    ),
                },
                Outcome::Final(error) => {
                    endpoint.is_well();
                    return Err(error);
                }
                Outcome::Unwell(why, retry_after) => (why, retry_after),
            };
            endpoint.is_unwell(round, &why, retry_after, self.longest_rest());
            reasons.push(format!("{address}: {why}"));
        }
        Err(CallError::Unavailable(reasons.join("; ")))
    }

    fn request(&self, address: &VaultAddress, call: &Call<'_>) -> Result<Request<Full<Bytes>>, CallError> {
        let method = if call.body.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/{}", call.path))
            .header(header::HOST, address.authority())
            // Vault refuses calls without it when its listener asks for it.
            .header("X-Vault-Request", "true");
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        if let Some(token) = call.token {
            let mut value = HeaderValue::from_str(token.expose())
                .map_err(|_| CallError::Forbidden("the token holds characters that no token has".into()))?;
            value.set_sensitive(true);
            request = request.header("X-Vault-Token", value);
        }
        let body = call.body.map(ToString::to_string).unwrap_or_default();
        request
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| CallError::Unavailable(error.to_string()))
    }
}

fn judge(reply: &Reply, call: &Call<'_>) -> Outcome {
    let reasons = || shown(&reply.body, call);
    match reply.status {
        StatusCode::OK => Outcome::Answer(reply.body.clone()),
        // Nothing to say is null.
        StatusCode::NO_CONTENT => Outcome::Answer(Zeroizing::new(b"null".to_vec())),
        StatusCode::FORBIDDEN => Outcome::Final(CallError::Forbidden(reasons())),
        StatusCode::TOO_MANY_REQUESTS => Outcome::Unwell(format!("429: {}", reasons()), reply.retry_after),
        // Of an eventually consistent node that has not seen the token yet.
        StatusCode::PRECONDITION_FAILED | StatusCode::REQUEST_TIMEOUT => {
            Outcome::Unwell(format!("{}: {}", reply.status.as_u16(), reasons()), reply.retry_after)
        }
        status if status.is_redirection() => {
            let to = clean(reply.location.as_deref().unwrap_or("nowhere"), call);
            Outcome::Unwell(
                format!("a standby that redirects to {to}: give that address, too, or let it forward"),
                None,
            )
        }
        // 472 and 473 are a standby's health: nothing that was asked for.
        status if status.is_client_error() && !matches!(status.as_u16(), 472 | 473) => {
            Outcome::Final(CallError::Refused {
                status: status.as_u16(),
                text: reasons(),
            })
        }
        status => Outcome::Unwell(format!("{}: {}", status.as_u16(), reasons()), reply.retry_after),
    }
}

/// Vault's reasons in an answer.
fn shown(body: &[u8], call: &Call<'_>) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    match serde_json::from_slice::<Errors>(body) {
        Ok(found) if !found.errors.is_empty() => clean(&found.errors.join("; "), call),
        _ => "no reason given".to_owned(),
    }
}

/// Somebody else's text, for people.
fn clean(text: &str, call: &Call<'_>) -> String {
    let mut text = text.to_owned();
    for secret in call.secrets.iter().copied().chain(call.token) {
        text = secret.redact(&text);
    }
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MAX_REASON).map(plain).collect()
}
