//! What the word after `cert view` means. Only looks whether a file is there.

use std::path::{Path, PathBuf};

use anyhow::bail;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    File(PathBuf),
    Address {
        /// Without brackets.
        host: String,
        port: u16,
    },
    /// Or a replica.
    Service(String),
}

impl Target {
    /// A file that is there is meant before anything else.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let path = Path::new(text);
        // A service often lies in a folder of its name.
        if path.exists() && !path.is_dir() {
            return Ok(Self::File(path.to_owned()));
        }
        if text.contains('/') || [".pem", ".crt", ".cer", ".der"].iter().any(|end| text.ends_with(end)) {
            bail!("there is no file {text}");
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Ok(Self::Service(text.to_owned()));
        };
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = inner.unwrap_or(host);
        let Ok(port) = port.parse() else {
            bail!("`{text}`: after the last colon of HOST:PORT stands a port from 1 to 65535");
        };
        if host.is_empty() || (inner.is_none() && host.contains(':')) {
            bail!("`{text}` is no HOST:PORT: an IPv6 address stands in brackets, as in [::1]:8443");
        }
        Ok(Self::Address {
            host: host.to_owned(),
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn files_addresses_and_services_are_told_apart() {
        let address = |host: &str, port| Target::Address {
            host: host.to_owned(),
            port,
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        let table = [
            (file.path().to_str().unwrap(), Target::File(file.path().to_owned())),
            ("orders-2", Target::Service("orders-2".to_owned())),
            ("vault.example:8200", address("vault.example", 8200)),
            ("[::1]:8443", address("::1", 8443)),
        ];
        for (text, expected) in table {
            assert_eq!(Target::parse(text).unwrap(), expected);
        }
        for (text, complaint) in [
            ("./no/such/file", "there is no file"),
            ("no-such.pem", "there is no file"),
            ("host:http", "a port from 1 to 65535"),
            ("::1:8443", "in brackets"),
            (":8443", "no HOST:PORT"),
        ] {
            let said = Target::parse(text).unwrap_err().to_string();
            assert!(said.contains(complaint), "{text}: {said}");
        }
    }
}
