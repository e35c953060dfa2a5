//! `watchword policy check`: what is wrong in policy files, before a mesh
//! refuses them.
//!
//! Invariant: it says what the control plane would say, because the same code
//! reads and checks the files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use watchword_control_plane::mesh_file::{MeshFile, load_policy_files};
use watchword_policy::Diagnostic;

use super::{MISTAKE, counted};
use crate::say;

/// Checks the policy files at `paths`, and folders of them, together; with
/// `mesh_file` also against the services and ports of that mesh. Mistakes go
/// to standard error, a summary to standard output. Exit status 2 when there
/// are errors, 0 otherwise.
pub(super) fn run(mesh_file: Option<&Path>, paths: &[PathBuf]) -> ExitCode {
    if mesh_file.is_none() {
        say::plain("warning: services and ports go unchecked: name the mesh with --mesh-file FILE");
    }
    let outcome = check(mesh_file, paths);
    outcome.findings.iter().for_each(say::plain);
    // The exit status tells it too, where nobody reads standard output.
    let _ = say::out(outcome.summary());
    if outcome.errors() > 0 {
        return ExitCode::from(MISTAKE);
    }
    ExitCode::SUCCESS
}

/// What was found in all files together.
struct Outcome {
    /// How many policies are good, if all are.
    policies: Option<usize>,
    findings: Vec<Diagnostic>,
}

impl Outcome {
    fn errors(&self) -> usize {
        self.findings.iter().filter(|found| found.is_error()).count()
    }

    fn summary(&self) -> String {
        let errors = self.errors();
        let warnings = counted(self.findings.len() - errors, "warning", "warnings");
        match self.policies {
            Some(policies) => format!("{}: no errors, {warnings}", counted(policies, "policy", "policies")),
            None => format!("{}, {warnings}", counted(errors, "error", "errors")),
        }
    }
}

fn check(mesh_file: Option<&Path>, paths: &[PathBuf]) -> Outcome {
    let wrong = |findings| Outcome {
        policies: None,
        findings,
    };
    let context = match mesh_file.map(MeshFile::load) {
        None => None,
        Some(Ok(mesh)) => Some(mesh.policy_context()),
        Some(Err(findings)) => return wrong(findings),
    };
    match load_policy_files(paths, context.as_ref()) {
        Ok(loaded) => Outcome {
            policies: Some(loaded.policies.len()),
            findings: loaded.warnings,
        },
        Err(findings) => wrong(findings),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::fs;
    use std::path::PathBuf;

    use super::check;

    const MESH: &str = "trustDomain: td\nservices: {a: {run: [x], ports: {80: tcp}}}\n";
    const GOOD: &str = "name: p\nservice: spiffe://td/a\nallow: [{from: [spiffe://td/*], ports: [80]}]\n";

    /// Summary and places of `policy` checked without and with the mesh.
    fn checked(mesh: &str, policy: &str) -> [(String, Vec<(u64, u64)>); 2] {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| -> PathBuf {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let mesh = write("mesh.yaml", mesh);
        let policy = write("policy.yaml", policy);
        [None, Some(mesh.as_path())].map(|mesh| {
            let outcome = check(mesh, std::slice::from_ref(&policy));
            let places = outcome.findings.iter().map(|found| (found.line, found.column));
            (outcome.summary(), places.collect())
        })
    }

    #[test]
    fn good_policies_are_counted_with_their_warnings() {
        let found = checked(MESH, GOOD);
        let expected = ("1 policy: no errors, 1 warning".to_owned(), vec![(3, 17)]);
        assert_eq!(found, [expected.clone(), expected]);
    }

    #[test]
    fn services_and_ports_are_checked_with_a_mesh_only() {
        let [without, with] = checked(MESH, &GOOD.replace("[80]", "[81]"));
        assert_eq!(without.0, "1 policy: no errors, 1 warning");
        assert_eq!(with, ("1 error, 1 warning".to_owned(), vec![(3, 17), (3, 41)]));
    }

    #[test]
    fn a_wrong_mesh_file_and_a_missing_policy_are_errors() {
        let [_, with] = checked("trustDomain: td\n", GOOD);
        assert_eq!(with, ("1 error, no warnings".to_owned(), vec![(1, 1)]));
        let outcome = check(None, &[PathBuf::from("/nowhere/policy.yaml")]);
        assert_eq!(outcome.summary(), "1 error, no warnings");
    }
}
