//! The embedded authority: a root and an intermediate in a folder that only
//! its owner can read, for machines without a Vault.
//!
//! Invariants:
//! - The folder appears whole, by one rename: a crash while it is made leaves
//!   nothing that anybody could have trusted.
//! - Of a request only the public key is taken. A leaf never outlives its
//!   issuer.
//! - The root's key is needed only to renew the intermediate, once in a year:
//!   it may be kept elsewhere in between.

mod certificates;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rcgen::{Issuer, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use watchword_identity::{Bundle, BundleError, Root, TrustDomain};
use zeroize::Zeroizing;

use super::{Authority, AuthorityError, SignRequest};
use crate::state_folder::{
    FolderError, PRIVATE, PUBLIC, open_private, read_private, read_public, rename, write_atomic,
};
use certificates::{check_ca, check_key, issue_leaf, make_intermediate, make_root};

const FOLDER: &str = "authority";
const UNFINISHED_FOLDER: &str = "authority.new";
const ROOT: &str = "root.pem";
const ROOT_KEY: &str = "root-key.pem";
/// Certificate and key in one file, so that one rename replaces both.
const INTERMEDIATE: &str = "intermediate.pem";
/// An intermediate that ends sooner is replaced.
const RENEW_INTERMEDIATE_BEFORE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Why the embedded authority can't be used.
#[derive(Debug, Error)]
pub enum EmbeddedError {
    /// A file or folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Some of its files are gone.
    #[error(
        "the authority in {} is incomplete, {missing} is missing: restore it from a backup, or move the folder away, which founds a new authority that no running workload trusts",
        .folder.display()
    )]
    Incomplete {
        /// Where.
        folder: PathBuf,
        /// Which file.
        missing: &'static str,
    },
    /// A file is not what it should be.
    #[error("{}: {problem}", .path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The root is not one.
    #[error("the root can't be used: {0}")]
    Bundle(#[from] BundleError),
    /// Keys or certificates can't be made.
    #[error("certificates can't be made: {0}")]
    Make(#[from] rcgen::Error),
}

struct Intermediate {
    certificate: CertificateDer<'static>,
    not_after: SystemTime,
    signer: Issuer<'static, KeyPair>,
}

/// Signs with keys of its own.
pub struct EmbeddedAuthority {
    domain: TrustDomain,
    folder: PathBuf,
    root: Root,
    bundle: Bundle,
    intermediate: ArcSwap<Intermediate>,
}

impl std::fmt::Debug for EmbeddedAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedAuthority")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl EmbeddedAuthority {
    /// Opens the authority in `state_folder`, and founds it at the first start.
    ///
    /// # Errors
    /// See [`EmbeddedError`].
    pub fn open(state_folder: &Path, domain: &TrustDomain, now: SystemTime) -> Result<Self, EmbeddedError> {
        open_private(state_folder)?;
        let folder = state_folder.join(FOLDER);
        if !folder.exists() {
            found(state_folder, domain, now)?;
            tracing::info!(folder = %folder.display(), trust_domain = %domain, "founded a new authority");
        }
        open_private(&folder)?;
        let root = read_root(&folder, domain, now)?;
        let intermediate = read_intermediate(&folder, domain, &root)?;
        let bundle = Bundle::new(domain.clone(), vec![root.certificate().clone()])?;
        let authority = Self {
            domain: domain.clone(),
            folder,
            root,
            bundle,
            intermediate: ArcSwap::from_pointee(intermediate),
        };
        authority.renew_intermediate(now)?;
        Ok(authority)
    }

    /// Signs a new intermediate, with a new key, when the old one ends soon.
    fn renew_intermediate(&self, now: SystemTime) -> Result<(), EmbeddedError> {
        let current = self.intermediate.load_full();
        let ends_soon = current.not_after < now + RENEW_INTERMEDIATE_BEFORE;
        // Nothing to be won when the root itself ends first.
        if !ends_soon || current.not_after >= self.root.not_after() {
            return Ok(());
        }
        let Some(pem) = read_private(&self.folder.join(ROOT_KEY))? else {
            let left = current.not_after.duration_since(now).unwrap_or_default();
            tracing::error!(
                file = %self.folder.join(ROOT_KEY).display(),
                days_left = left.as_secs() / 86_400,
                "the intermediate ends soon, and the root's key that would renew it is not here: put it back for a restart"
            );
            return Ok(());
        };
        let key = private_key(&self.folder.join(ROOT_KEY), &pem)?;
        let root = self.root.certificate();
        check_key(root, &key).map_err(invalid(&self.folder.join(ROOT_KEY)))?;
        let signer = Issuer::from_ca_cert_der(root, key)?;
        let made = make_intermediate(&self.domain, &signer, now, self.root.not_after())?;
        write_atomic(&self.folder.join(INTERMEDIATE), made.as_bytes(), PRIVATE)?;
        self.intermediate
            .store(Arc::new(read_intermediate(&self.folder, &self.domain, &self.root)?));
        tracing::info!("renewed the intermediate");
        Ok(())
    }
}

#[tonic::async_trait]
impl Authority for EmbeddedAuthority {
    fn name(&self) -> &'static str {
        "embedded"
    }

    async fn sign(&self, request: SignRequest<'_>) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let intermediate = self.intermediate.load_full();
        let last = intermediate.not_after.min(self.root.not_after());
        if last <= request.now {
            return Err(AuthorityError::Expired(
                "restart with the root's key in its place".into(),
            ));
        }
        let not_after = last.min(request.now + request.ttl);
        let leaf = issue_leaf(&request, not_after, &intermediate.signer)
            .map_err(|error| AuthorityError::Refused(error.to_string()))?;
        Ok(vec![leaf, intermediate.certificate.clone()])
    }

    fn bundle(&self) -> Bundle {
        self.bundle.clone()
    }

    async fn maintain(&self, now: SystemTime) -> Result<(), AuthorityError> {
        self.renew_intermediate(now)
            .map_err(|error| AuthorityError::Unavailable(error.to_string()))
    }
}

/// Makes root and intermediate in a folder that gets its name when complete.
fn found(state_folder: &Path, domain: &TrustDomain, now: SystemTime) -> Result<(), EmbeddedError> {
    let unfinished = state_folder.join(UNFINISHED_FOLDER);
    // Of a crash: nobody has seen what is in it.
    if let Err(source) = fs::remove_dir_all(&unfinished)
        && source.kind() != std::io::ErrorKind::NotFound
    {
        return Err(FolderError::Io {
            action: "can't remove",
            path: unfinished,
            source,
        }
        .into());
    }
    open_private(&unfinished)?;
    let (root, key) = make_root(domain, now)?;
    let key_pem = Zeroizing::new(key.serialize_pem());
    let certificate =
        Root::from_der(CertificateDer::from_pem_slice(root.as_bytes()).map_err(pem_problem(&unfinished.join(ROOT)))?)?;
    let signer = Issuer::from_ca_cert_der(certificate.certificate(), key)?;
    let intermediate = make_intermediate(domain, &signer, now, certificate.not_after())?;
    write_atomic(&unfinished.join(ROOT), root.as_bytes(), PUBLIC)?;
    write_atomic(&unfinished.join(ROOT_KEY), key_pem.as_bytes(), PRIVATE)?;
    write_atomic(&unfinished.join(INTERMEDIATE), intermediate.as_bytes(), PRIVATE)?;
    rename(&unfinished, &state_folder.join(FOLDER))?;
    Ok(())
}

fn read_root(folder: &Path, domain: &TrustDomain, now: SystemTime) -> Result<Root, EmbeddedError> {
    let path = folder.join(ROOT);
    let pem = read_public(&path)?.ok_or_else(|| incomplete(folder, ROOT))?;
    let certificate = CertificateDer::from_pem_slice(&pem).map_err(pem_problem(&path))?;
    check_ca(&certificate, &certificate, domain).map_err(invalid(&path))?;
    let root = Root::from_der(certificate)?;
    if !root.is_valid_at(now) {
        let problem = "the root is not valid now: compare the clock; if the root has expired, move the folder away to found a new authority";
        return Err(invalid(&path)(problem.into()));
    }
    // Looked at even when it is not needed, so that wrong permissions show.
    read_private(&folder.join(ROOT_KEY))?;
    Ok(root)
}

fn read_intermediate(folder: &Path, domain: &TrustDomain, root: &Root) -> Result<Intermediate, EmbeddedError> {
    let path = folder.join(INTERMEDIATE);
    let pem = read_private(&path)?.ok_or_else(|| incomplete(folder, INTERMEDIATE))?;
    let certificate = CertificateDer::from_pem_slice(&pem).map_err(pem_problem(&path))?;
    check_ca(&certificate, root.certificate(), domain).map_err(invalid(&path))?;
    let key = private_key(&path, &pem)?;
    check_key(&certificate, &key).map_err(invalid(&path))?;
    let not_after = Root::from_der(certificate.clone())?.not_after();
    let signer = Issuer::from_ca_cert_der(&certificate, key)?;
    Ok(Intermediate {
        certificate,
        not_after,
        signer,
    })
}

fn private_key(path: &Path, pem: &[u8]) -> Result<KeyPair, EmbeddedError> {
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(pem_problem(path))?;
    KeyPair::try_from(&key).map_err(|error| invalid(path)(format!("the private key can't be read: {error}")))
}

fn incomplete(folder: &Path, missing: &'static str) -> EmbeddedError {
    EmbeddedError::Incomplete {
        folder: folder.to_path_buf(),
        missing,
    }
}

fn invalid(path: &Path) -> impl FnOnce(String) -> EmbeddedError {
    move |problem| EmbeddedError::Invalid {
        path: path.to_path_buf(),
        problem,
    }
}

/// Without the parser's reason: it quotes a broken line, which may be of the key.
fn pem_problem(path: &Path) -> impl FnOnce(rustls_pki_types::pem::Error) -> EmbeddedError {
    move |_| invalid(path)("not the PEM that was written there: restore it from a backup".into())
}

#[cfg(test)]
mod tests;
