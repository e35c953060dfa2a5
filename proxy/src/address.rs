//! Addresses that a configuration names, and how they are reached.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixStream, lookup_host};
use watchword_daemon::MAX_SOCKET_PATH;

use crate::dial::Dialler;

/// HOST:PORT, or unix:/PATH.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Address {
    /// A name or address, and a port.
    Tcp(String),
    /// An absolute path.
    Unix(PathBuf),
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            let length = path.as_os_str().len();
            return if !path.is_absolute() {
                Err(format!("{text:?}: the path after unix: must be absolute"))
            } else if length > MAX_SOCKET_PATH {
                Err(format!(
                    "{text:?}: the path has {length} bytes, and a Unix socket's may have {MAX_SOCKET_PATH}"
                ))
            } else {
                Ok(Self::Unix(path))
            };
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
                Ok(Self::Tcp(text))
            }
            _ => Err(format!("{text:?}: expected HOST:PORT or unix:/PATH")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// A connection of either kind.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Address {
    /// Connects, to the first address of a name that answers.
    pub(crate) async fn dial(&self, dialler: &Dialler) -> io::Result<Box<dyn Io>> {
        match self {
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Self::Tcp(address) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for candidate in lookup_host(address).await? {
                    match dialler.connect(candidate).await {
                        Ok(stream) => return Ok(Box::new(stream)),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_port_or_a_socket() {
        let parse = |text: &str| Address::try_from(text.to_owned());
        assert_eq!(parse("unix:/a/b"), Ok(Address::Unix("/a/b".into())));
        assert_eq!(parse("[::1]:15012"), Ok(Address::Tcp("[::1]:15012".into())));
        let long = format!("unix:/{}", "a".repeat(107));
        for wrong in ["", "host", "host:0", ":15012", "unix:a.sock", "host:99999", &long] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
