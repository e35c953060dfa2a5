//! Policies: who may call whom. Model, files, checks and decisions.
//!
//! Pure: no I/O, no clock, no threads. The callers read files and hand in
//! their text. The same code decides in the proxy and explains at a desk, so
//! the two cannot differ. What a policy file says and cannot be enforced is an
//! error at its place, never ignored.
//!
//! - [`parse`] turns the text of a file into policies with their places;
//! - [`check_set`] looks at all files together, and against the mesh;
//! - [`PolicySet`] is what decides;
//! - [`path::normalise`] is what a request's path goes through before,
//!   and [`header_names`] says which headers it loses.
//!
//! [`document`] and [`diagnostic`] also serve the other YAML files of the
//! project, so that all of them report mistakes alike.

mod check;
mod decide;
pub mod diagnostic;
pub mod document;
pub mod header_names;
mod id_map;
mod model;
mod parse;
pub mod path;
mod pattern;
mod principal;
mod protocol;
mod requests;

pub use check::{MeshContext, check_set};
pub use decide::{Call, Decision, Denial, Gate, PolicySet, Reason, Request, Verdict};
pub use diagnostic::Diagnostic;
pub use model::{MAX_NAME, MAX_RULE_WEIGHT, MAX_SET_WEIGHT, Policy, Rule, is_name};
pub use parse::{Parsed, ParsedPolicy, parse};
pub use pattern::{IdPattern, IdPrefix, PatternError, parse_workload_id};
pub use principal::{Callers, Mode, Principal, UNAUTHENTICATED};
pub use protocol::Protocol;
pub use requests::{
    GrpcMatch, GrpcMethod, GrpcNameError, GrpcService, HeaderCondition, HeaderError, HeaderMatch, HeaderText, Host,
    HostError, HttpMatch, Method, MethodError, PathPattern, PathPatternError, Requests,
};
