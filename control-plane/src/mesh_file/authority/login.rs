//! How to log in to Vault, as the mesh file says it.

use std::path::Path;

use watchword_policy::diagnostic::Report;
use watchword_policy::document::Node;

use super::VaultAuth;
use super::names::{segment, slashed};
use crate::mesh_file::read::optional;
use crate::mesh_file::values;

const AUTH_KEYS: &[&str] = &["tokenFile", "appRole", "kubernetes", "certificate"];
/// Where Kubernetes puts a pod's token.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Reads `auth`; `has_certificate` says whether `vault` names one.
pub(super) fn read_auth(node: &Node, base: &Path, has_certificate: bool, report: &mut Report) -> Option<VaultAuth> {
    let fields = node.fields("`auth`", AUTH_KEYS, report)?;
    let mut given = AUTH_KEYS.iter().filter_map(|key| Some((*key, fields.optional(key)?)));
    let (Some((key, way)), None) = (given.next(), given.next()) else {
        let expected = "`auth` needs one way to log in: `tokenFile`, `appRole`, `kubernetes` or `certificate`";
        report.error(fields.at(), expected);
        return None;
    };
    match key {
        "tokenFile" => values::path(way, base, report).map(VaultAuth::TokenFile),
        "appRole" => read_app_role(way, base, report),
        "kubernetes" => read_kubernetes(way, base, report),
        _ => {
            if !has_certificate {
                let missing = "`certificate` needs `certFile` and `keyFile` in `vault`: what to log in with";
                report.error(fields.place_of(key).unwrap_or(way.at), missing);
                return None;
            }
            read_certificate(way, report)
        }
    }
}

fn read_kubernetes(node: &Node, base: &Path, report: &mut Report) -> Option<VaultAuth> {
    let fields = node.fields("`kubernetes`", &["mount", "role", "tokenFile"], report)?;
    let mount = optional(&fields, "mount", report, |node, report| {
        slashed(
            node,
            "where the Kubernetes login is mounted, such as kubernetes",
            report,
        )
    });
    let role = fields
        .required("role", "the role of Vault's Kubernetes login", report)
        .and_then(|node| segment(node, "the name of a role of Vault's Kubernetes login", report));
    let token_file = optional(&fields, "tokenFile", report, |node, report| {
        values::path(node, base, report)
    });
    Some(VaultAuth::Kubernetes {
        mount: mount?.unwrap_or_else(|| "kubernetes".to_owned()),
        role: role?,
        token_file: token_file?.unwrap_or_else(|| SERVICE_ACCOUNT_TOKEN.into()),
    })
}

fn read_certificate(node: &Node, report: &mut Report) -> Option<VaultAuth> {
    let fields = node.fields("`certificate`", &["mount", "role"], report)?;
    let mount = optional(&fields, "mount", report, |node, report| {
        slashed(node, "where the certificate login is mounted, such as cert", report)
    });
    let role = optional(&fields, "role", report, |node, report| {
        segment(node, "the name of a role of Vault's certificate login", report)
    });
    Some(VaultAuth::Certificate {
        mount: mount?.unwrap_or_else(|| "cert".to_owned()),
        role: role?,
    })
}

fn read_app_role(node: &Node, base: &Path, report: &mut Report) -> Option<VaultAuth> {
    let keys = &["mount", "roleIdFile", "secretIdFile", "secretIdWrapped"];
    let fields = node.fields("`appRole`", keys, report)?;
    let mount = optional(&fields, "mount", report, |node, report| {
        slashed(node, "where AppRole is mounted, such as approle", report)
    });
    let mut file = |key, hint| {
        let node = fields.required(key, hint, report)?;
        values::path(node, base, report)
    };
    let role_id_file = file("roleIdFile", "the file that holds the role ID");
    let secret_id_file = file("secretIdFile", "the file that holds the secret ID");
    let secret_id_wrapped = optional(&fields, "secretIdWrapped", report, Node::boolean);
    Some(VaultAuth::AppRole {
        mount: mount?.unwrap_or_else(|| "approle".to_owned()),
        role_id_file: role_id_file?,
        secret_id_file: secret_id_file?,
        secret_id_wrapped: secret_id_wrapped?.unwrap_or(false),
    })
}
