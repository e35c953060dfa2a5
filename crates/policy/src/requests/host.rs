//! Hosts that a request may be for.
//!
//! Invariant: two spellings of one host have one [`HostKey`], and neither
//! making nor comparing one allocates.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The longest name in bytes (RFC 1035, section 2.3.4), without a final dot.
const MAX_BYTES: usize = 253;

/// A host: a name in lower case without a final dot, an IPv4 address, or an
/// IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(String);

/// Why a text is not a [`Host`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// `*`.
    #[error("a host has no `*`: name each host, or leave `hosts` out to mean all")]
    Wildcard,
    /// `http://…`.
    #[error("a host has no scheme: write {0}")]
    Scheme(String),
    /// `host/path`.
    #[error("a host has no path: write {0}, and the path under `paths`")]
    Path(String),
    /// `host:80`.
    #[error("hosts are compared without their port: write {0}, and the port under `ports` of the rule")]
    Port(String),
    /// `::1`.
    #[error("an IPv6 address stands in brackets: write [{0}]")]
    Brackets(Ipv6Addr),
    /// Anything else.
    #[error(
        "expected a host: a name of at most {MAX_BYTES} letters, digits, `-`, `_` and dots, an IPv4 address, or an \
         IPv6 address in brackets"
    )]
    Invalid,
}

/// What hosts are compared by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostKey {
    bytes: [u8; MAX_BYTES],
    length: usize,
}

/// The key of a host as a request says it: in any case, perhaps with a port
/// and a final dot. Nothing where no [`Host`] can be meant.
pub(crate) fn host_key(sent: &str) -> Option<HostKey> {
    if let Some(bracketed) = sent.strip_prefix('[') {
        let (address, _) = bracketed.split_once(']')?;
        return Some(HostKey::of_address(address.parse().ok()?));
    }
    let name = sent.split(':').next().unwrap_or(sent);
    HostKey::of_name(name.strip_suffix('.').unwrap_or(name))
}

impl HostKey {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn of_name(name: &str) -> Option<Self> {
        let mut bytes = [0; MAX_BYTES];
        let length = name.len();
        bytes.get_mut(..length)?.copy_from_slice(name.as_bytes());
        bytes[..length].make_ascii_lowercase();
        Some(Self { bytes, length })
    }

    /// Begins as no name does.
    fn of_address(address: Ipv6Addr) -> Self {
        let mut bytes = [0; MAX_BYTES];
        bytes[0] = b'[';
        bytes[1..17].copy_from_slice(&address.octets());
        Self { bytes, length: 17 }
    }
}

impl Host {
    /// As it is written in files.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if text.contains('*') {
            return Err(HostError::Wildcard);
        }
        if let Some((_, behind)) = text.split_once("://") {
            return Err(HostError::Scheme(behind.to_owned()));
        }
        if let Some((host, _)) = text.split_once('/') {
            return Err(HostError::Path(host.to_owned()));
        }
        if let Ok(address) = text.parse() {
            return Err(HostError::Brackets(address));
        }
        if let Some(bracketed) = text.strip_prefix('[') {
            return bracketed_host(bracketed);
        }
        if let Some((host, port)) = text.split_once(':') {
            let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
            return Err(if is_port {
                HostError::Port(host.to_owned())
            } else {
                HostError::Invalid
            });
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let label = |label: &str| !label.is_empty() && label.bytes().all(good);
        if name.len() > MAX_BYTES || !name.split('.').all(label) {
            return Err(HostError::Invalid);
        }
        Ok(Self(name.to_ascii_lowercase()))
    }
}

/// `bracketed` begins behind the bracket.
fn bracketed_host(bracketed: &str) -> Result<Host, HostError> {
    let (address, behind) = bracketed.split_once(']').ok_or(HostError::Invalid)?;
    let address: Ipv6Addr = address.parse().map_err(|_| HostError::Invalid)?;
    let host = format!("[{address}]");
    match behind {
        "" => Ok(Host(host)),
        port if port.starts_with(':') => Err(HostError::Port(host)),
        _ => Err(HostError::Invalid),
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Host, host_key};

    #[test]
    fn spellings_of_one_host_have_one_key() {
        let same = |host: &str, sent: &str| {
            let host: Host = host.parse().unwrap();
            let key = host_key(host.as_str()).unwrap();
            host_key(sent).is_some_and(|sent| sent.as_bytes() == key.as_bytes())
        };
        for sent in [
            "orders.shop",
            "Orders.SHOP",
            "orders.shop.",
            "orders.shop:8080",
            "orders.shop.:80",
            "orders.shop:",
        ] {
            assert!(same("orders.shop", sent), "{sent}");
            assert!(same("ORDERS.shop.", sent), "{sent}");
        }
        for sent in [
            "",
            ":80",
            "orders",
            "orders.shop..",
            "orders.shop.x",
            "x.orders.shop",
            "[::1]",
            "[orders.shop]",
        ] {
            assert!(!same("orders.shop", sent), "{sent}");
        }
        for sent in ["[::1]", "[::1]:80", "[0:0::1]", "[0:0:0:0:0:0:0:1]:1"] {
            assert!(same("[::0:1]", sent), "{sent}");
        }
        assert!(same("[fd77::A]", "[FD77::a]:80") && same("10.0.0.1", "10.0.0.1:80"));
        for sent in ["::1", "[::1", "[::2]", "[]"] {
            assert!(!same("[::1]", sent), "{sent}");
        }
        let long = "a".repeat(253);
        assert!(same(&long, &format!("{long}.:80")));
        assert_eq!(host_key(&format!("{long}a")), None);
    }

    #[test]
    fn what_can_never_match_is_refused_with_what_to_write() {
        let table = [
            ("*", "name each host"),
            ("*.shop", "name each host"),
            ("http://orders", "no scheme: write orders"),
            ("orders/x", "no path: write orders"),
            ("orders:80", "without their port: write orders"),
            ("[::1]:80", "without their port: write [::1]"),
            ("::1", "in brackets: write [::1]"),
            ("", "expected a host"),
            (".", "expected a host"),
            ("a..b", "expected a host"),
            ("a b", "expected a host"),
            ("a:b", "expected a host"),
            ("ü.example", "expected a host"),
            ("[::1", "expected a host"),
            ("[::1]x", "expected a host"),
            ("[a]", "expected a host"),
        ];
        for (text, expected) in table {
            let told = text.parse::<Host>().unwrap_err().to_string();
            assert!(told.contains(expected), "{text}: {told}");
        }
        assert!("a".repeat(254).parse::<Host>().is_err());
    }
}
