//! The files of other trust domains' roots.
//!
//! Invariants: what is handed out has good roots for each trust domain that
//! the mesh file names; none of them is the mesh's own. Whether a root has
//! expired is not asked here: a partner's lapse must not keep the mesh from
//! starting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use watchword_identity::{Bundle, TrustDomain};
use watchword_policy::Diagnostic;
use watchword_policy::diagnostic::{Position, Report};
use watchword_policy::document::{Fields, Node};

use super::read::NamedPath;
use super::{text_file, values};
use crate::pem;

/// With the next one it is far from what a message to a proxy may hold: 4 MiB.
const MAX_PARTNERS: usize = 32;
const MAX_FILE_BYTES: u64 = 64 << 10;

/// Reads the key: nothing of it if one of its entries is wrong.
pub(super) fn read(
    fields: &Fields<'_>,
    own: Option<&TrustDomain>,
    base: &Path,
    paths: &mut Vec<NamedPath>,
    report: &mut Report,
) -> Option<BTreeMap<TrustDomain, PathBuf>> {
    let Some(node) = fields.optional("trustBundles") else {
        return Some(BTreeMap::new());
    };
    let entries = node.entries("other trust domains, each with the file of its roots", report)?;
    if entries.len() > MAX_PARTNERS {
        let message = format!(
            "{} other trust domains are more than {MAX_PARTNERS}: leave out some",
            entries.len()
        );
        report.error(node.at, message);
    }
    let entries: Vec<_> = entries
        .into_iter()
        .map(|(domain, file)| read_entry(domain, file, own, base, report))
        .collect();
    let mut files = BTreeMap::new();
    for (domain, named) in entries.into_iter().collect::<Option<Vec<_>>>()? {
        files.insert(domain, named.path.clone());
        paths.push(named);
    }
    Some(files)
}

fn read_entry(
    domain: &Node,
    file: &Node,
    own: Option<&TrustDomain>,
    base: &Path,
    report: &mut Report,
) -> Option<(TrustDomain, NamedPath)> {
    let at = domain.at;
    let mut domain = values::trust_domain(domain, report);
    if domain.as_ref().is_some_and(|domain| own == Some(domain)) {
        let message = "this is the mesh's own `trustDomain`, whose roots the authority says: leave it out here";
        report.error(at, message);
        domain = None;
    }
    let named = NamedPath::read(file, base, report)?;
    Some((domain?, named))
}

/// Reads the files.
///
/// # Errors
/// What is wrong with each, and what to do.
pub(super) fn load(files: &BTreeMap<TrustDomain, PathBuf>) -> Result<Bundle, Vec<Diagnostic>> {
    let (mut bundle, mut findings) = (Bundle::default(), Vec::new());
    for (domain, file) in files {
        match load_one(domain, file) {
            Ok(roots) => bundle = bundle.with_others(&roots),
            Err(finding) => findings.push(finding),
        }
    }
    if findings.is_empty() { Ok(bundle) } else { Err(findings) }
}

fn load_one(domain: &TrustDomain, file: &Path) -> Result<Bundle, Diagnostic> {
    let wrong = |problem: String| {
        let message = format!(
            "this can't be the trust bundle of {domain}: {problem}; put that trust domain's root certificates into \
             it, as PEM"
        );
        Diagnostic::error(&file.display().to_string(), Position::START, message)
    };
    let text = text_file::read_bytes(file, MAX_FILE_BYTES)?
        .ok_or_else(|| wrong(format!("it is larger than {} KiB", MAX_FILE_BYTES >> 10)))?;
    let roots = Bundle::from_pem(domain.clone(), &text).map_err(|error| wrong(error.to_string()))?;
    pem::check_all_read(&text, roots.roots(domain).len()).map_err(wrong)?;
    Ok(roots)
}
