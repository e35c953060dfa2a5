//! Finds, reads and checks the policy files of a mesh.
//!
//! Invariant: either all files are good and together make one set, or there is
//! no set at all.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use watchword_policy::diagnostic::Position;
use watchword_policy::{Diagnostic, MeshContext, Policy, check_set, parse};

use super::text_file;

/// The policies of a mesh, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadedPolicies {
    /// In the order of the files.
    pub policies: Vec<Policy>,
    /// What looks wrong but is not an error.
    pub warnings: Vec<Diagnostic>,
}

/// Reads policy files, and folders of them: their `*.yaml` and `*.yml`, sorted
/// by name, not those of folders inside, nor hidden ones. Links are followed,
/// and a file that is reached twice is read once. Checks them together, and
/// against `context` if there is one.
///
/// # Errors
/// Everything that is wrong, together with the warnings.
pub fn load_policy_files(paths: &[PathBuf], context: Option<&MeshContext>) -> Result<LoadedPolicies, Vec<Diagnostic>> {
    let mut findings = Vec::new();
    let mut parsed = Vec::new();
    for file in policy_files(paths, &mut findings) {
        let text = match text_file::read(&file) {
            Ok(text) => text,
            Err(error) => {
                findings.push(error);
                continue;
            }
        };
        match parse(&file.display().to_string(), &text) {
            Ok(good) => {
                findings.extend(good.warnings.iter().cloned());
                parsed.push(good);
            }
            Err(wrong) => findings.extend(wrong),
        }
    }
    findings.extend(check_set(&parsed, context));
    if findings.iter().any(Diagnostic::is_error) {
        return Err(findings);
    }
    Ok(LoadedPolicies {
        policies: parsed.into_iter().flat_map(|file| file.into_policies()).collect(),
        warnings: findings,
    })
}

/// The files that [`load_policy_files`] would read, and folders that it can't
/// look into: what is to be watched. A file that a link or a folder above it
/// replaces keeps its name here.
pub(crate) fn watched_files(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        match files_of_folder(path, &mut Vec::new()) {
            Ok(found) => files.extend(found),
            Err(_) => files.push(path.clone()),
        }
    }
    files
}

/// All files that `paths` mean, each once.
fn policy_files(paths: &[PathBuf], findings: &mut Vec<Diagnostic>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        match files_of_folder(path, findings) {
            Ok(found) if found.is_empty() => {
                let message = "there is no policy file (*.yaml, *.yml) in this folder";
                findings.push(about_folder(path, Diagnostic::warning, message));
            }
            Ok(found) => files.extend(found),
            Err(error) => {
                let message = format!("the folder can't be read: {error}");
                findings.push(about_folder(path, Diagnostic::error, &message));
            }
        }
    }
    let mut seen = BTreeSet::new();
    files.retain(|file| seen.insert(file.canonicalize().unwrap_or(file.clone())));
    files
}

fn files_of_folder(folder: &Path, findings: &mut Vec<Diagnostic>) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        // A mounted ConfigMap keeps its versions in hidden folders.
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if path.is_dir() {
            let message = "a folder inside a folder of policies is not read: name it under `policies` too, or move it";
            findings.push(about_folder(&path, Diagnostic::warning, message));
        } else if path.extension().is_some_and(|kind| kind == "yaml" || kind == "yml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn about_folder(folder: &Path, kind: fn(&str, Position, String) -> Diagnostic, message: &str) -> Diagnostic {
    kind(&folder.display().to_string(), Position::START, message.to_owned())
}
