//! Where a Vault is: text becomes an address that its token may travel to.

use std::fmt;
use std::net::IpAddr;

/// One of Vault's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultAddress {
    /// Not so on loopback only.
    pub tls: bool,
    /// A DNS name, or an IP address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for VaultAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl VaultAddress {
    /// `HOST:PORT`, with brackets around an IPv6 address.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let expected = || "expected an address of Vault, such as https://vault.example.org:8200".to_owned();
        let uri: http::Uri = text.parse().map_err(|_| expected())?;
        let authority = uri.authority().ok_or_else(expected)?;
        if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(expected());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(expected()),
        };
        watchword_mtls::check_host(host).map_err(|error| error.to_string())?;
        let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if !tls && !is_loopback {
            return Err(format!(
                "`{text}` would carry Vault's token in the clear: use https (http is for 127.0.0.1 and [::1] only)"
            ));
        }
        let port = match authority.port() {
            Some(_) => authority.port_u16().filter(|port| *port != 0).ok_or_else(expected)?,
            None if tls => 443,
            None => 80,
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
        })
    }
}
