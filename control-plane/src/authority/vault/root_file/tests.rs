//! Which files may follow which.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa};
use time::OffsetDateTime;

use super::*;
use crate::testing::{domain, key, now};

fn root_that_ends(end: SystemTime) -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = OffsetDateTime::from(end);
    params.self_signed(&key()).unwrap().pem()
}

fn root() -> String {
    root_that_ends(now() + Duration::from_secs(3600))
}

fn leaf() -> String {
    CertificateParams::default().self_signed(&key()).unwrap().pem()
}

#[test]
fn only_good_files_that_share_a_root_with_those_in_force_may_follow() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root.pem");
    let (old, new, over) = (root(), root(), root_that_ends(now() - Duration::from_secs(1)));
    std::fs::write(&path, [old.as_str(), &over].concat()).unwrap();
    let file = RootFile::open(&path, &domain()).unwrap();
    let many: String = std::iter::once(old.clone()).chain((0..32).map(|_| root())).collect();
    let cases: [(String, &str); 13] = [
        (old.clone(), ""),
        ([old.as_str(), &new].concat(), ""),
        ([new.as_str(), &old].concat(), ""),
        ([over.as_str(), &old].concat(), ""),
        (new.clone(), "put the old and the new roots into it first"),
        (over.clone(), "none of its roots is valid now"),
        (String::new(), "has no root"),
        ("no PEM at all".into(), "has no root"),
        (
            old.replace("BEGIN CERTIFICATE-----\n", "BEGIN CERTIFICATE-----\n!"),
            "cannot be read",
        ),
        ([old.as_str(), &leaf()].concat(), "is not a CA certificate"),
        ([old.trim(), &new].concat(), "only 1 of 2 certificates"),
        (many, "more than 32 roots"),
        ([old.as_str(), &" ".repeat(1 << 20)].concat(), "1 MiB"),
    ];
    for (text, problem) in cases {
        std::fs::write(&path, &text).unwrap();
        let shown = text.chars().take(200).collect::<String>();
        match file.read_next(now()) {
            Ok(_) => assert_eq!(problem, "", "{shown}"),
            Err(error) => {
                assert!(!problem.is_empty() && error.contains(problem), "{error}: {shown}");
                assert!(error.contains("root.pem"), "{error}");
            }
        }
    }
    std::fs::remove_file(&path).unwrap();
    assert!(file.read_next(now()).unwrap_err().contains("root.pem"));
    std::fs::create_dir(&path).unwrap();
    assert!(file.read_next(now()).unwrap_err().contains("not a file"));
}

#[test]
fn what_is_read_is_in_force_only_when_it_is_put_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root.pem");
    let (old, new) = (root(), root());
    std::fs::write(&path, &old).unwrap();
    let file = RootFile::open(&path, &domain()).unwrap();
    std::fs::write(&path, [old.as_str(), &new].concat()).unwrap();
    let both = file.read_next(now()).unwrap();
    assert_eq!(file.in_force().roots(&domain()).len(), 1);
    file.put_in_force(both);
    assert_eq!(file.in_force().roots(&domain()).len(), 2);
    // Now the old one may go.
    std::fs::write(&path, &new).unwrap();
    file.read_next(now()).unwrap();
}
