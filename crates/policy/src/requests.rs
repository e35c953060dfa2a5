//! Which requests a rule is about: what an `http` or `grpc` block says.
//!
//! Invariants: each part is a type that only holds what can match, in the
//! spelling that is compared, and every list that is not said to mean "all"
//! when empty has an item. It knows neither files nor messages: each part
//! parses from a text and displays as one, and both use that.

mod grpc;
mod header;
mod host;
mod method;
mod path_pattern;

use crate::protocol::Protocol;

pub use grpc::{GrpcMethod, GrpcNameError, GrpcService};
pub use header::{HeaderCondition, HeaderError, HeaderMatch, HeaderText};
pub use host::{Host, HostError};
pub(crate) use host::{HostKey, host_key};
pub use method::{Method, MethodError};
pub(crate) use path_pattern::Segment;
pub use path_pattern::{PathPattern, PathPatternError};

/// Which requests on a port a rule is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Requests {
    /// Every request, whatever the port speaks, and the connection as a whole.
    #[default]
    All,
    /// HTTP requests that one of these matches; not empty. On `http` ports only.
    Http(Vec<HttpMatch>),
    /// gRPC calls that one of these matches; not empty. On `grpc` ports only.
    Grpc(Vec<GrpcMatch>),
}

impl Requests {
    /// What a port must speak for a rule with this block; nothing without one.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        match self {
            Self::All => None,
            Self::Http(_) => Some(Protocol::Http),
            Self::Grpc(_) => Some(Protocol::Grpc),
        }
    }
}

/// HTTP requests that match everything given here. An empty list means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HttpMatch {
    /// One of these methods.
    pub methods: Vec<Method>,
    /// One of these paths.
    pub paths: Vec<PathPattern>,
    /// One of these hosts.
    pub hosts: Vec<Host>,
    /// All of these headers.
    pub headers: Vec<HeaderMatch>,
}

/// gRPC calls of one service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GrpcMatch {
    /// The service.
    pub service: GrpcService,
    /// One of its methods; empty means all.
    pub methods: Vec<GrpcMethod>,
}
