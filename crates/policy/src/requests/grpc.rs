//! Names of gRPC services and their methods.

use std::fmt;
use std::str::FromStr;

/// The longest name in bytes.
const MAX_BYTES: usize = 512;

/// The full name of a service: `shop.Payments`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrpcService(String);

/// The name of a method: `Charge`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrpcMethod(String);

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrpcNameError {
    /// `*`.
    #[error("a name has no `*`: name each service, and leave `methods` out to mean all of its methods")]
    Wildcard,
    /// `service/method` or `/service/method`.
    #[error("service and method are given apart: {{service: shop.Payments, methods: [Charge]}}")]
    Slash,
    /// Not identifiers that dots join.
    #[error("expected the full name of a service, such as shop.Payments: identifiers with dots in between")]
    Service,
    /// Not an identifier.
    #[error("expected the name of a method, such as Charge: a letter or `_`, then letters, digits and `_`")]
    Method,
}

impl GrpcService {
    /// As it stands in a request.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl GrpcMethod {
    /// As it stands in a request.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GrpcService {
    type Err = GrpcNameError;

    fn from_str(text: &str) -> Result<Self, GrpcNameError> {
        check(text, GrpcNameError::Service, text.split('.').all(is_identifier))?;
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for GrpcMethod {
    type Err = GrpcNameError;

    fn from_str(text: &str) -> Result<Self, GrpcNameError> {
        check(text, GrpcNameError::Method, is_identifier(text))?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for GrpcService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for GrpcMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check(text: &str, otherwise: GrpcNameError, is_name: bool) -> Result<(), GrpcNameError> {
    if text.contains('*') {
        return Err(GrpcNameError::Wildcard);
    }
    if text.contains('/') {
        return Err(GrpcNameError::Slash);
    }
    if is_name && text.len() <= MAX_BYTES {
        Ok(())
    } else {
        Err(otherwise)
    }
}

fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first = bytes.next();
    first.is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
