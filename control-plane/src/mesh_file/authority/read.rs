//! Reading `authority`: each mistake is reported where it stands.

use std::path::Path;

use watchword_policy::diagnostic::Report;
use watchword_policy::document::{Fields, Node, Value};

use super::login::read_auth;
use super::names::{segment, slashed};
use super::{AuthorityChoice, CertificateFiles, VaultAddress, VaultSettings};
use crate::mesh_file::read::{NamedPath, optional, present};
use crate::mesh_file::values;

const EXPECTED: &str = "`embedded` or `{vault: …}`";
const VAULT_KEYS: &[&str] = &[
    "addresses",
    "caFile",
    "certFile",
    "keyFile",
    "namespace",
    "mount",
    "role",
    "rootFile",
    "auth",
];
const DEFAULT_MOUNT: &str = "pki";
const MAX_ADDRESSES: usize = 16;

/// Reads `authority`, which may be missing.
pub(in crate::mesh_file) fn read(
    fields: &Fields<'_>,
    base: &Path,
    paths: &mut Vec<NamedPath>,
    report: &mut Report,
) -> Option<AuthorityChoice> {
    let Some(node) = fields.optional("authority") else {
        return Some(AuthorityChoice::Embedded);
    };
    match &node.value {
        Value::Text(text) if text == "embedded" => Some(AuthorityChoice::Embedded),
        Value::Mapping(entries) if !entries.is_empty() => {
            let fields = node.fields("`authority`", &["vault"], report)?;
            // Otherwise another key stands there, and was reported.
            let vault = fields.optional("vault")?;
            let settings = read_vault(vault, base, paths, report)?;
            Some(AuthorityChoice::Vault(Box::new(settings)))
        }
        _ => {
            node.mismatch(EXPECTED, report);
            None
        }
    }
}

fn read_vault(node: &Node, base: &Path, paths: &mut Vec<NamedPath>, report: &mut Report) -> Option<VaultSettings> {
    let fields = node.fields("`vault`", VAULT_KEYS, report)?;
    let addresses = fields
        .required("addresses", "a list, such as [https://vault.example.org:8200]", report)
        .and_then(|node| read_addresses(node, report));
    let ca_file = optional(&fields, "caFile", report, |node, report| {
        present(node, base, paths, report)
    });
    let client_certificate = read_client_certificate(&fields, base, report);
    let namespace = optional(&fields, "namespace", report, |node, report| {
        slashed(node, "a namespace, such as team-a or org/team-a", report)
    });
    let mount = optional(&fields, "mount", report, |node, report| {
        slashed(node, "where a PKI engine is mounted, such as pki_int", report)
    });
    let role = fields
        .required("role", "the PKI role that signs", report)
        .and_then(|node| segment(node, "a PKI role's name", report));
    let root_file = fields
        .required(
            "rootFile",
            "the root's certificate, which all workloads will trust",
            report,
        )
        .and_then(|node| present(node, base, paths, report));
    let auth = fields
        .required(
            "auth",
            "how to log in, such as {tokenFile: …} or {appRole: {…}}",
            report,
        )
        .and_then(|node| read_auth(node, base, fields.place_of("certFile").is_some(), report));
    let (addresses, ca_file) = (addresses?, ca_file?);
    if ca_file.is_none() && addresses.iter().any(|address| address.tls) {
        let message = "`caFile` is missing in `vault`: the certificate of the authority that vouches for Vault's own \
                       certificate (the system's authorities are never asked)";
        report.error(fields.at(), message);
        return None;
    }
    if let Some(at) = fields.place_of("certFile")
        && let Some(clear) = addresses.iter().find(|address| !address.tls)
    {
        report.error(
            at,
            format!("`certFile` is shown in TLS only, and `{clear}` has none: use https"),
        );
        return None;
    }
    Some(VaultSettings {
        addresses,
        ca_file,
        client_certificate: client_certificate?,
        namespace: namespace?,
        mount: mount?.unwrap_or_else(|| DEFAULT_MOUNT.to_owned()),
        role: role?,
        root_file: root_file?,
        auth: auth?,
    })
}

fn read_addresses(node: &Node, report: &mut Report) -> Option<Vec<VaultAddress>> {
    let expected = "one to 16 addresses of Vault";
    let addresses: Vec<VaultAddress> = values::each(node, expected, report, |node, report| {
        let text = node.text("an address of Vault", report)?;
        VaultAddress::parse(text)
            .map_err(|message| report.error(node.at, message))
            .ok()
    })?;
    if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
        node.mismatch(expected, report);
        return None;
    }
    Some(addresses)
}

/// The files of secrets may come later, and so may these. The inner `None` is for neither.
#[expect(
    clippy::option_option,
    reason = "like `optional`: nothing said, or a mistake that was reported"
)]
fn read_client_certificate(fields: &Fields<'_>, base: &Path, report: &mut Report) -> Option<Option<CertificateFiles>> {
    let (certificate, key) = match (fields.optional("certFile"), fields.optional("keyFile")) {
        (None, None) => return Some(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(alone), None) => {
            report.error(
                alone.at,
                "`certFile` needs `keyFile` beside it: the certificate's private key",
            );
            return None;
        }
        (None, Some(alone)) => {
            report.error(alone.at, "`keyFile` needs `certFile` beside it: the key's certificate");
            return None;
        }
    };
    let (certificate, key) = (values::path(certificate, base, report), values::path(key, base, report));
    Some(Some(CertificateFiles {
        certificate: certificate?,
        key: key?,
    }))
}
