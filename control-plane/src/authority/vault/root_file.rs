//! `rootFile`: the operator's roots, which are what the mesh trusts.
//!
//! Invariants: what is in force changes by [`RootFile::put_in_force`] alone. A
//! file that can't be used is an error that says what to do, and changes
//! nothing; neither does one that has no root in common with those in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use watchword_identity::{Bundle, TrustDomain};

use super::{VaultError, read_file};
use crate::pem;

/// The file, and the roots of it that are in force.
#[derive(Debug)]
pub struct RootFile {
    path: PathBuf,
    domain: TrustDomain,
    in_force: ArcSwap<Bundle>,
}

impl RootFile {
    /// Reads it, and puts it in force.
    ///
    /// # Errors
    /// When it can't be used.
    pub(super) fn open(path: &Path, domain: &TrustDomain) -> Result<Self, VaultError> {
        Ok(Self {
            path: path.to_path_buf(),
            domain: domain.clone(),
            in_force: ArcSwap::from_pointee(read(path, domain)?),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose roots they are.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// What is trusted.
    pub fn in_force(&self) -> Arc<Bundle> {
        self.in_force.load_full()
    }

    /// What stands in it now, if that may follow what is in force. May block.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn read_next(&self, now: SystemTime) -> Result<Bundle, String> {
        let next = read(&self.path, &self.domain).map_err(|error| error.to_string())?;
        may_follow(&self.in_force(), &next, &self.domain, now)
            .map_err(|problem| format!("{}: {problem}", self.path.display()))?;
        Ok(next)
    }

    /// From now on this is what is trusted. Whoever is to know it first knows it.
    pub fn put_in_force(&self, bundle: Bundle) {
        self.in_force.store(Arc::new(bundle));
    }
}

fn read(path: &Path, domain: &TrustDomain) -> Result<Bundle, VaultError> {
    let text = read_file(path)?;
    let bundle = Bundle::from_pem(domain.clone(), &text).map_err(|source| VaultError::Root {
        path: path.to_path_buf(),
        source,
    })?;
    pem::check_all_read(&text, bundle.roots(domain).len()).map_err(|problem| VaultError::File {
        path: path.to_path_buf(),
        problem,
    })?;
    Ok(bundle)
}

fn may_follow(before: &Bundle, next: &Bundle, domain: &TrustDomain, now: SystemTime) -> Result<(), String> {
    let (before, next) = (before.roots(domain), next.roots(domain));
    if !next.iter().any(|root| root.is_valid_at(now)) {
        return Err("none of its roots is valid now: put one into it that is, or compare the clock".into());
    }
    if !next.iter().any(|root| before.contains(root)) {
        return Err(
            "it has no root in common with those in force, so no certificate of the mesh would be trusted: \
             put the old and the new roots into it first, and remove the old ones in a second step"
                .into(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
