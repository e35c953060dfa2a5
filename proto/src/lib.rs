//! What goes over the wire: the messages generated from the `.proto` files (our
//! own, SPIFFE's and Envoy's), and the conversions between them and the types
//! of the pure crates.
//!
//! Invariants: nothing else in the project names prost, and a message from
//! outside becomes a validated type here or is refused here.

mod bundle;
pub mod directory;
mod payload;
mod policies;
mod redacted;
pub mod sds;
pub mod workload_api;

pub use bundle::{bundle_from_proto, bundle_to_proto};
pub use payload::{PayloadError, decode_payload, encode_payload};
pub use policies::{POLICY_SCHEMA, Policies, policies_from_proto, policy_set_to_proto};

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

/// Identity and Discovery: what a sidecar and the control plane say.
pub mod control {
    pub use crate::generated::watchword::v1::discovery_client::DiscoveryClient;
    pub use crate::generated::watchword::v1::discovery_server::{Discovery, DiscoveryServer};
    pub use crate::generated::watchword::v1::identity_client::IdentityClient;
    pub use crate::generated::watchword::v1::identity_server::{Identity, IdentityServer};
    pub use crate::generated::watchword::v1::{
        Ack, AttestRequest, Bundle, Directory, EgressEntry, EgressMode, Endpoint, GrpcMatch, GrpcMatches, HeaderMatch,
        Hello, HttpMatch, HttpMatches, IssueForWorkloadRequest, IssueResponse, Mode, Nack, Peer, Policy, PolicySet,
        Port, Protocol, RenewRequest, Rule, Service, SnapshotUpdate, SubscribeRequest, TrustDomainRoots,
        attest_request, header_match, rule, snapshot_update, subscribe_request,
    };
}

/// What people ask of the control plane.
pub mod admin {
    pub use crate::generated::watchword::v1::admin_client::AdminClient;
    pub use crate::generated::watchword::v1::admin_server::{Admin, AdminServer};
    pub use crate::generated::watchword::v1::{
        CreateTokenRequest, CreateTokenResponse, Lineage, SnapshotState, StatusRequest, StatusResponse, Subscriber,
    };
}

/// Control payloads of watchword/1 frames.
pub mod tunnel {
    pub use crate::generated::watchword::v1::{Denied, Goaway, Open, Opened, Reason, Refused, Reset};
}

/// What the programs of `watchword demo` say to each other.
pub mod shop {
    pub use crate::generated::shop::payments_client::PaymentsClient;
    pub use crate::generated::shop::payments_server::{Payments, PaymentsServer};
    pub use crate::generated::shop::{ChargeRequest, ChargeResponse, RefundRequest, RefundResponse};
}

/// Why a message from outside can't become one of our types.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidMessage {
    /// Which field, from the message's root.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl InvalidMessage {
    pub(crate) fn new(field: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self {
            field: field.into(),
            problem: problem.to_string(),
        }
    }
}
