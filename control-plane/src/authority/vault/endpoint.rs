//! One address of Vault: its connections, and whether it is worth a call.
//!
//! Invariants:
//! - Every exchange ends within [`EXCHANGE_DEADLINE`], and no answer of more
//!   than it is told is kept.
//! - A connection that showed Vault another certificate than the one that is
//!   to be shown now carries no request.
//! - A request that may have reached Vault is not sent twice over one address.
//! - After a failure the address rests, longer after each; when the rest is
//!   over one caller tries it, while the others go on resting. Calls that fail
//!   together are one failure.

use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use zeroize::Zeroizing;

use super::tls::Generation;
use crate::mesh_file::VaultAddress;

/// For one request and its answer, the connection included. Two addresses fit
/// into what an issuance may take.
pub(super) const EXCHANGE_DEADLINE: Duration = Duration::from_secs(3);
/// The longest answer, far above what signing gives.
pub(super) const MAX_BODY: usize = 256 * 1024;
const MAX_HEAD: usize = 32 * 1024;
/// Calls that are under way, in all: more at once would only wait within Vault,
/// and a mesh that starts all at once must not be what makes it slow for others.
pub(super) const MAX_AT_ONCE: usize = 32;
const MAX_IDLE: usize = MAX_AT_ONCE;
/// Vault itself closes after five minutes, others in between sooner.
const MAX_IDLE_TIME: Duration = Duration::from_secs(30);
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// However short certificates are.
const SHORTEST_LONGEST_REST: Duration = Duration::from_secs(1);
/// The longest rest as a part of a certificate's life: whoever waits for the
/// end of a rest has a third of it left, if Vault was away for as long.
const REST_PART: u32 = 20;
/// Vault may name a time, but not put us off for longer.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Vault's answer, whatever it is.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) location: Option<String>,
    /// May hold a token.
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// When a call began: after so many failures of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Round(u64);

type Sender = SendRequest<Full<Bytes>>;

/// With the number of the certificate that it was made with.
struct Connection {
    sender: Sender,
    generation: Option<u64>,
}

/// One address.
pub(super) struct Endpoint {
    address: VaultAddress,
    idle: Mutex<Vec<(Instant, Connection)>>,
    health: Mutex<Health>,
    longest: usize,
}

#[derive(Default)]
struct Health {
    failures: u32,
    /// Grows with each failure, and never shrinks.
    round: u64,
    rests_until: Option<Instant>,
    why: String,
}

impl Endpoint {
    /// Answers have `longest` bytes at most.
    pub(super) fn new(address: VaultAddress, longest: usize) -> Self {
        Self {
            address,
            longest,
            idle: Mutex::default(),
            health: Mutex::default(),
        }
    }

    pub(super) fn address(&self) -> &VaultAddress {
        &self.address
    }

    /// Whether it may be called now, with what [`Self::is_unwell`] is to be
    /// told; otherwise why it rests, and how long.
    pub(super) fn may_call(&self) -> Result<Round, String> {
        let now = Instant::now();
        let mut health = locked(&self.health);
        match health.rests_until {
            None => Ok(Round(health.round)),
            Some(until) if until <= now => {
                health.rests_until = Some(now + EXCHANGE_DEADLINE);
                Ok(Round(health.round))
            }
            Some(until) => {
                let left = until.duration_since(now).as_secs_f64();
                Err(format!("{} (not asked again for {left:.1} s)", health.why))
            }
        }
    }

    /// It answered as a Vault that works does, be it with a refusal.
    pub(super) fn is_well(&self) {
        let mut health = locked(&self.health);
        if health.failures > 0 {
            tracing::info!(address = %self.address, "Vault answers again");
        }
        *health = Health {
            round: health.round,
            ..Health::default()
        };
    }

    /// It did not, for this reason. It rests for `longest` at most, if it does
    /// not ask for more.
    pub(super) fn is_unwell(&self, round: Round, why: &str, retry_after: Option<Duration>, longest: Duration) {
        let mut health = locked(&self.health);
        if round.0 != health.round {
            // Another call of the same time has told.
            tracing::debug!(address = %self.address, why, "Vault can't be used by this address");
            return;
        }
        health.round += 1;
        health.failures = health.failures.saturating_add(1);
        let rest = match retry_after {
            Some(wish) => wish.min(LONGEST_RETRY_AFTER) + rest_after(1, fastrand::f64(), longest),
            None => rest_after(health.failures, fastrand::f64(), longest),
        };
        let milliseconds = rest.as_millis();
        tracing::warn!(address = %self.address, why, failures = health.failures, rests_ms = milliseconds, "Vault can't be used by this address");
        health.rests_until = Some(Instant::now() + rest);
        why.clone_into(&mut health.why);
    }

    /// Sends a request and reads the answer. `tls` is needed when the address says so.
    pub(super) async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        tls: Option<&Generation>,
    ) -> Result<Reply, String> {
        let tls = tls.filter(|_| self.address.tls);
        timeout(EXCHANGE_DEADLINE, self.exchange_without_deadline(request, tls))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", EXCHANGE_DEADLINE.as_secs())))
    }

    async fn exchange_without_deadline(
        &self,
        mut request: Request<Full<Bytes>>,
        tls: Option<&Generation>,
    ) -> Result<Reply, String> {
        while let Some(mut connection) = self.take_idle(tls) {
            match connection.sender.try_send_request(request).await {
                Ok(response) => return self.finish(response, connection).await,
                // Vault closed it meanwhile: nothing of the request has left.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(format!("the connection broke: {}", with_causes(error.error()))),
                },
            }
        }
        let mut connection = self.connect(tls).await?;
        let response = connection
            .sender
            .send_request(request)
            .await
            .map_err(|error| format!("the connection broke: {}", with_causes(&error)))?;
        self.finish(response, connection).await
    }

    async fn finish(&self, response: Response<Incoming>, mut connection: Connection) -> Result<Reply, String> {
        let (head, body) = response.into_parts();
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let retry_after = text(header::RETRY_AFTER).and_then(|seconds| seconds.trim().parse().ok());
        let location = text(header::LOCATION).map(str::to_owned);
        let body = Limited::new(body, self.longest)
            .collect()
            .await
            .map_err(|error| format!("half an answer, or one of more than {} bytes: {error}", self.longest))?;
        if connection.sender.ready().await.is_ok() {
            let mut idle = locked(&self.idle);
            if idle.len() < MAX_IDLE {
                idle.push((Instant::now(), connection));
            }
        }
        Ok(Reply {
            status: head.status,
            retry_after: retry_after.map(Duration::from_secs),
            location,
            body: Zeroizing::new(body.to_bytes().to_vec()),
        })
    }

    fn take_idle(&self, tls: Option<&Generation>) -> Option<Connection> {
        let generation = tls.map(|tls| tls.number);
        let mut idle = locked(&self.idle);
        while let Some((since, connection)) = idle.pop() {
            let is_young = since.elapsed() < MAX_IDLE_TIME;
            if is_young && connection.generation == generation && !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self, tls: Option<&Generation>) -> Result<Connection, String> {
        let (host, port) = (self.address.host.as_str(), self.address.port);
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(|error| format!("can't connect: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        if !self.address.tls {
            let sender = speak_http(stream).await?;
            return Ok(Connection {
                sender,
                generation: None,
            });
        }
        // Without a client there is nothing that could vouch for the server.
        let tls = tls.ok_or("TLS is not configured")?;
        let connected = tls.client.connect(stream, host).await;
        let stream = connected.map_err(|error| error.to_string())?;
        Ok(Connection {
            sender: speak_http(stream).await?,
            generation: Some(tls.number),
        })
    }
}

async fn speak_http<IO>(stream: IO) -> Result<Sender, String>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // It ends when its sender is dropped, or when Vault closes.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to Vault ended");
        }
    });
    Ok(sender)
}

/// An alert of TLS, for one, stands in the cause.
fn with_causes(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Doubles with each failure; `draw` of 0 to 1 spreads callers over the second half.
fn rest_after(failures: u32, draw: f64, longest: Duration) -> Duration {
    let doublings = failures.saturating_sub(1).min(10);
    let rest = (FIRST_REST * 2_u32.pow(doublings)).min(longest);
    rest.mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0)
}

/// How long an address may rest when certificates live for so long; as long as
/// ever when none was signed yet.
pub(super) fn longest_rest(lifetime: Option<Duration>) -> Duration {
    let part = lifetime.map_or(LONGEST_REST, |lifetime| lifetime / REST_PART);
    part.clamp(SHORTEST_LONGEST_REST, LONGEST_REST)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_up_to_thirty_seconds_and_are_spread() {
        let millis = |failures, draw| rest_after(failures, draw, longest_rest(None)).as_millis();
        assert_eq!((millis(1, 0.0), millis(1, 1.0)), (250, 500));
        assert_eq!((millis(2, 1.0), millis(3, 1.0)), (1000, 2000));
        assert_eq!((millis(7, 1.0), millis(u32::MAX, 0.0)), (30_000, 15_000));
    }

    #[test]
    fn rests_are_short_where_certificates_are() {
        let longest = |seconds| longest_rest(Some(Duration::from_secs(seconds))).as_secs();
        assert_eq!((longest(4), longest(40), longest(3600)), (1, 2, 30));
        assert_eq!(
            rest_after(u32::MAX, 1.0, Duration::from_secs(2)),
            Duration::from_secs(2)
        );
    }

    fn endpoint() -> Endpoint {
        let address = VaultAddress {
            tls: false,
            host: "127.0.0.1".into(),
            port: 1,
        };
        Endpoint::new(address, MAX_BODY)
    }

    /// The renewals of a hundred workloads must not silence Vault for half a
    /// minute because it hiccupped once.
    #[tokio::test(start_paused = true)]
    async fn calls_that_fail_together_are_one_failure() {
        let endpoint = endpoint();
        let rounds: Vec<Round> = (0..100).map(|_| endpoint.may_call().unwrap()).collect();
        for round in rounds {
            endpoint.is_unwell(round, "a hiccup", None, longest_rest(None));
        }
        assert!(endpoint.may_call().unwrap_err().contains("a hiccup"));
        tokio::time::advance(FIRST_REST).await;
        endpoint.may_call().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_rest_one_call_goes_first_and_the_others_when_it_came_back() {
        let endpoint = endpoint();
        let round = endpoint.may_call().unwrap();
        endpoint.is_unwell(round, "away", None, longest_rest(None));
        tokio::time::advance(FIRST_REST).await;
        let allowed = (0..100).filter(|_| endpoint.may_call().is_ok()).count();
        assert_eq!(allowed, 1, "one looks whether it is back");
        endpoint.is_well();
        let allowed = (0..100).filter(|_| endpoint.may_call().is_ok()).count();
        assert_eq!(allowed, 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_is_never_told_of_is_followed_by_another_one() {
        let endpoint = endpoint();
        let round = endpoint.may_call().unwrap();
        endpoint.is_unwell(round, "away", None, longest_rest(None));
        tokio::time::advance(FIRST_REST).await;
        // Its caller went away.
        endpoint.may_call().unwrap();
        endpoint.may_call().unwrap_err();
        tokio::time::advance(EXCHANGE_DEADLINE).await;
        endpoint.may_call().unwrap();
    }
}
