//! What policies are asked, by flags or by a case of a file.
//!
//! Invariant: flags and cases make the same [`Question`], so that a case means
//! what `explain` shows.

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue};
use spiffe::SpiffeId;
use watchword_policy::{GrpcMethod, GrpcService, Principal, Protocol, parse_workload_id};

/// The flags of `policy explain`.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Who calls: a SPIFFE ID, or `unauthenticated` (who has none, in permissive mode)
    #[arg(long, value_name = "ID")]
    from: Principal,
    /// Who is called: a SPIFFE ID
    #[arg(long, value_name = "ID", value_parser = parse_workload_id)]
    to: SpiffeId,
    /// The port that is called
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// What is spoken there: tcp, http or grpc; by default what the mesh file says, or what fits the other flags
    #[arg(long, value_name = "P", value_parser = protocol)]
    protocol: Option<Protocol>,
    /// The method of a request; by default GET
    #[arg(long, value_name = "M")]
    method: Option<String>,
    /// The path of a request, as it is sent, without query; by default /
    #[arg(long, value_name = "P", value_parser = path)]
    path: Option<String>,
    /// The host that a request is for
    #[arg(long, value_name = "H")]
    host: Option<String>,
    /// A header of a request; may be given several times
    #[arg(long = "header", value_name = "K=V", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// A gRPC call: `shop.Payments/Charge`
    #[arg(long, value_name = "SERVICE/METHOD", value_parser = grpc, conflicts_with_all = ["method", "path"])]
    grpc: Option<String>,
}

/// What is to be decided.
#[derive(Debug, PartialEq)]
pub(super) struct Question {
    pub(super) from: Principal,
    pub(super) to: SpiffeId,
    pub(super) port: u16,
    /// As it was given.
    pub(super) protocol: Option<Protocol>,
    /// What fits the rest of the question.
    pub(super) suggested: Protocol,
    /// Nothing: it is about the connection.
    pub(super) sent: Option<Sent>,
}

/// A request as it is sent.
#[derive(Debug, PartialEq)]
pub(super) struct Sent {
    pub(super) method: String,
    /// As it comes, not normalised.
    pub(super) path: String,
    pub(super) host: Option<String>,
    pub(super) headers: HeaderMap,
}

/// The parts of a request of which each may be left out.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) method: Option<String>,
    pub(super) path: Option<String>,
    pub(super) host: Option<String>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// The path of a gRPC call; it excludes `method` and `path`.
    pub(super) grpc: Option<String>,
}

impl Parts {
    /// The request, if there is any part of it, and what it suggests is spoken.
    pub(super) fn into_sent(self) -> (Option<Sent>, Protocol) {
        let is_http = self.method.is_some() || self.path.is_some() || self.host.is_some() || !self.headers.is_empty();
        let suggested = match (&self.grpc, is_http) {
            (Some(_), _) => Protocol::Grpc,
            (None, true) => Protocol::Http,
            (None, false) => return (None, Protocol::Tcp),
        };
        let method = if self.grpc.is_some() { "POST" } else { "GET" };
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        let sent = Sent {
            method: self.method.unwrap_or_else(|| method.to_owned()),
            path: self.grpc.or(self.path).unwrap_or_else(|| "/".to_owned()),
            host: self.host,
            headers,
        };
        (Some(sent), suggested)
    }
}

impl From<Flags> for Question {
    fn from(flags: Flags) -> Self {
        let parts = Parts {
            method: flags.method,
            path: flags.path,
            host: flags.host,
            headers: flags.headers,
            grpc: flags.grpc,
        };
        let (sent, suggested) = parts.into_sent();
        Self {
            from: flags.from,
            to: flags.to,
            port: flags.port,
            protocol: flags.protocol,
            suggested,
            sent,
        }
    }
}

/// `tcp`, `http` or `grpc`.
pub(super) fn protocol(text: &str) -> Result<Protocol, String> {
    let known = Protocol::ALL.into_iter().find(|protocol| protocol.as_str() == text);
    known.ok_or_else(|| "expected a protocol: `tcp`, `http` or `grpc`".to_owned())
}

/// A path as a request has it; whether it can be normalised is a decision.
pub(super) fn path(text: &str) -> Result<String, String> {
    match text.find(['?', '#']) {
        Some(end) => Err(format!("policies see no query and no fragment: write {}", &text[..end])),
        None => Ok(text.to_owned()),
    }
}

/// `SERVICE/METHOD`, to the path of the call.
pub(super) fn grpc(text: &str) -> Result<String, String> {
    let call = text.strip_prefix('/').unwrap_or(text);
    let (service, method) = call
        .split_once('/')
        .ok_or("expected SERVICE/METHOD, such as shop.Payments/Charge")?;
    let service: GrpcService = service.parse().map_err(|error| format!("{error}"))?;
    let method: GrpcMethod = method.parse().map_err(|error| format!("{error}"))?;
    Ok(format!("/{service}/{method}"))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    named_header(name, value)
}

/// A header with its value.
pub(super) fn named_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let name = name
        .parse()
        .map_err(|_| format!("{name:?} is not the name of a header"))?;
    let value = value
        .parse()
        .map_err(|_| format!("{value:?} is not the value of a header"))?;
    Ok((name, value))
}
