//! Our end of TLS towards Vault: who vouches for Vault, and the certificate
//! that Vault is shown.
//!
//! Invariants:
//! - Each content of the certificate's files is a generation with a number;
//!   a connection of another generation carries no call.
//! - New files that can't be used change nothing, and are told once.
//! - Errors quote nothing of the files.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use watchword_mtls::{OutsideClient, OutsideError, ShownCertificate};

use super::files::{FileState, file_state, read_pem};
use crate::mesh_file::CertificateFiles;

/// What connections are made with now.
#[derive(Clone)]
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) client: OutsideClient,
}

type States = (Option<FileState>, Option<FileState>);

/// Makes TLS ends from the files as they are.
pub(super) struct Tls {
    authorities: Vec<u8>,
    shown: Option<Shown>,
    without: OutsideClient,
}

struct Shown {
    files: CertificateFiles,
    latest: Mutex<Latest>,
}

#[derive(Default)]
struct Latest {
    generation: Option<Generation>,
    /// Of which files; also when they were of no use, for this reason.
    states: Option<States>,
    problem: Option<String>,
}

impl Tls {
    /// `authorities` is PEM. The certificate's files are read with the first call.
    pub(super) fn new(authorities: Vec<u8>, files: Option<CertificateFiles>) -> Result<Self, OutsideError> {
        let without = OutsideClient::new(&authorities, None)?;
        let shown = files.map(|files| Shown {
            files,
            latest: Mutex::default(),
        });
        Ok(Self {
            authorities,
            shown,
            without,
        })
    }

    /// The file of the certificate that is shown.
    pub(super) fn certificate_file(&self) -> Option<&PathBuf> {
        self.shown.as_ref().map(|shown| &shown.files.certificate)
    }

    /// By the files as they are now; or by those before them, if these are of no use.
    pub(super) fn current(&self) -> Result<Generation, String> {
        let Some(shown) = &self.shown else {
            let client = self.without.clone();
            return Ok(Generation { number: 0, client });
        };
        let mut latest = shown.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let states = (file_state(&shown.files.certificate), file_state(&shown.files.key));
        if latest.states.as_ref() != Some(&states) {
            latest.states = Some(states);
            match self.read(&shown.files) {
                Ok(client) => {
                    let number = latest.generation.as_ref().map_or(0, |generation| generation.number) + 1;
                    if number > 1 {
                        let file = shown.files.certificate.display();
                        tracing::info!(%file, "Vault is shown a new certificate from now on");
                    }
                    latest.generation = Some(Generation { number, client });
                    latest.problem = None;
                }
                Err(problem) => {
                    let serves = latest.generation.is_some();
                    tracing::warn!(
                        problem,
                        the_one_before_serves = serves,
                        "no certificate to show to Vault"
                    );
                    latest.problem = Some(problem);
                }
            }
        }
        let reason = || latest.problem.clone().unwrap_or_default();
        latest.generation.clone().ok_or_else(reason)
    }

    fn read(&self, files: &CertificateFiles) -> Result<OutsideClient, String> {
        let (chain, key) = (read_pem(&files.certificate, false)?, read_pem(&files.key, true)?);
        let shown = ShownCertificate {
            chain: &chain,
            key: &key,
        };
        OutsideClient::new(&self.authorities, Some(&shown)).map_err(|error| match error {
            // Says which of the files it is.
            OutsideError::Certificate(_) => format!("{}: no certificate in PEM", files.certificate.display()),
            OutsideError::Key => format!(
                "{}: no private key in PEM that goes with the certificate in {}",
                files.key.display(),
                files.certificate.display()
            ),
            other => other.to_string(),
        })
    }
}
