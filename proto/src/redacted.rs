//! Messages that hold join tokens or private keys, as the log may show them.

use std::fmt::{Debug, Formatter, Result};

use crate::generated::X509svid;
use crate::generated::envoy::config::core::v3::{DataSource, data_source::Specifier};
use crate::generated::envoy::service::discovery::v3::{DiscoveryResponse, Resource};
use crate::generated::watchword::v1::{AttestRequest, CreateTokenResponse};

impl Debug for AttestRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AttestRequest")
            .field("csr", &self.csr.len())
            .field("evidence", &"(secret)")
            .finish()
    }
}

impl Debug for CreateTokenResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("CreateTokenResponse")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl Debug for X509svid {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("X509SVID")
            .field("spiffe_id", &self.spiffe_id)
            .finish_non_exhaustive()
    }
}

/// A private key may be in it.
impl Debug for DataSource {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("DataSource").finish_non_exhaustive()
    }
}

impl Debug for Specifier {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str("Specifier")
    }
}

impl Debug for DiscoveryResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("DiscoveryResponse")
            .field("version_info", &self.version_info)
            .field("nonce", &self.nonce)
            .field("resources", &self.resources.len())
            .finish_non_exhaustive()
    }
}

impl Debug for Resource {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Resource")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
