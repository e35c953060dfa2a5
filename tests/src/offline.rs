//! A certificate authority outside of Vault, made with OpenSSL: its key is in
//! a folder that is gone once it is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::programs::run;

const EXTENSIONS: &str = "[ca]\nbasicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\n\
                          subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";

/// A root, or an intermediate.
pub struct OfflineAuthority {
    folder: TempDir,
}

impl OfflineAuthority {
    /// A root with this common name.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn root(name: &str) -> Result<Self> {
        let root = Self::empty(name)?;
        root.openssl("req -x509 -config ca.cnf -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out certificate.pem -days 3650")?;
        Ok(root)
    }

    /// An intermediate with this common name, signed by this authority.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn intermediate(&self, name: &str) -> Result<Self> {
        let made = Self::empty(name)?;
        let request = made.openssl(
            "req -new -config ca.cnf -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem",
        )?;
        fs::write(made.file("certificate.pem"), self.sign(&request)?)?;
        Ok(made)
    }

    /// Signs an authority's request, PEM.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub fn sign(&self, request: &str) -> Result<String> {
        fs::write(self.file("request.pem"), request)?;
        self.openssl("x509 -req -in request.pem -CA certificate.pem -CAkey key.pem -CAcreateserial -days 1000 -extfile ca.cnf -extensions ca")
    }

    /// Its certificate, PEM.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn certificate(&self) -> Result<String> {
        fs::read_to_string(self.certificate_file()).context("a certificate was made")
    }

    /// The file of its certificate, as long as it lives.
    pub fn certificate_file(&self) -> PathBuf {
        self.file("certificate.pem")
    }

    fn empty(name: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("watchword-offline-").tempdir()?;
        let config =
            format!("[req]\ndistinguished_name=dn\nx509_extensions=ca\nprompt=no\n[dn]\nCN={name}\n{EXTENSIONS}");
        fs::write(folder.path().join("ca.cnf"), config)?;
        Ok(Self { folder })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn openssl(&self, words: &str) -> Result<String> {
        openssl(words, self.folder.path())
    }
}

/// OpenSSL in a folder; words are split at spaces.
///
/// # Errors
/// When it fails, with what it said.
pub fn openssl(words: &str, folder: &Path) -> Result<String> {
    let mut command = Command::new("openssl");
    run(command.args(words.split(' ')).current_dir(folder))
}
