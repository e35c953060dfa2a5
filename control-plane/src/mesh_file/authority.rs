//! What signs, as the mesh file says it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};
use watchword_policy::diagnostic::Report;
use watchword_policy::document::{Fields, Node, Value};

use super::read::{NamedPath, optional};
use super::values;

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
const AUTH_KEYS: &[&str] = &["tokenFile", "appRole", "kubernetes", "certificate"];
const DEFAULT_MOUNT: &str = "pki";
/// Where Kubernetes puts a pod's token.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const MAX_ADDRESSES: usize = 16;

/// What signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorityChoice {
    /// Keys in the state folder.
    Embedded,
    /// A PKI mount of Vault.
    Vault(Box<VaultSettings>),
}

/// Where Vault is, what it signs with, and how to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultSettings {
    /// Tried in this order; not empty.
    pub addresses: Vec<VaultAddress>,
    /// The authorities that vouch for Vault's own certificate. There when an
    /// address is `https`.
    pub ca_file: Option<PathBuf>,
    /// What is shown to Vault's TLS. With `https` addresses only.
    pub client_certificate: Option<CertificateFiles>,
    /// Vault Enterprise's.
    pub namespace: Option<String>,
    /// Where the PKI engine is mounted, such as `pki` or `team/pki_int`.
    pub mount: String,
    /// The PKI role.
    pub role: String,
    /// The roots that vouch for what Vault signs.
    pub root_file: PathBuf,
    /// How to log in.
    pub auth: VaultAuth,
}

/// A certificate and its key, both PEM. Read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Leaf first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How to log in. Files are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VaultAuth {
    /// A token that somebody else put there.
    TokenFile(PathBuf),
    /// AppRole.
    AppRole {
        /// Where the method is mounted.
        mount: String,
        /// The file of the role ID.
        role_id_file: PathBuf,
        /// The file of the secret ID, or of the token that it is wrapped in.
        secret_id_file: PathBuf,
        /// Whether it is wrapped.
        secret_id_wrapped: bool,
    },
    /// A Kubernetes service account's token.
    Kubernetes {
        /// Where the method is mounted.
        mount: String,
        /// The method's role.
        role: String,
        /// The file of the token, which Kubernetes replaces now and then.
        token_file: PathBuf,
    },
    /// The certificate that is shown to Vault's TLS.
    Certificate {
        /// Where the method is mounted.
        mount: String,
        /// The method's role; without one Vault tries them all.
        role: Option<String>,
    },
}

/// One of Vault's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultAddress {
    /// Not so on loopback only.
    pub tls: bool,
    /// A DNS name, or an IP address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for VaultAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl VaultAddress {
    /// `HOST:PORT`, with brackets around an IPv6 address.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let expected = || "expected an address of Vault, such as https://vault.example.org:8200".to_owned();
        let uri: http::Uri = text.parse().map_err(|_| expected())?;
        let authority = uri.authority().ok_or_else(expected)?;
        if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(expected());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(expected()),
        };
        watchword_mtls::check_host(host).map_err(|error| error.to_string())?;
        let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if !tls && !is_loopback {
            return Err(format!(
                "`{text}` would carry Vault's token in the clear: use https (http is for 127.0.0.1 and [::1] only)"
            ));
        }
        let port = match authority.port() {
            Some(_) => authority.port_u16().filter(|port| *port != 0).ok_or_else(expected)?,
            None if tls => 443,
            None => 80,
        };
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
        })
    }
}

impl AuthorityChoice {
    /// As it stands in a mesh file; JSON is YAML. Paths are absolute in it.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match self {
            Self::Embedded => json!("embedded"),
            Self::Vault(settings) => json!({"vault": settings.to_json()}),
        }
    }
}

impl VaultSettings {
    fn to_json(&self) -> Json {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let mut object = Map::new();
        object.insert("addresses".into(), json!(addresses));
        if let Some(file) = &self.ca_file {
            object.insert("caFile".into(), json!(file));
        }
        if let Some(files) = &self.client_certificate {
            object.insert("certFile".into(), json!(files.certificate));
            object.insert("keyFile".into(), json!(files.key));
        }
        if let Some(namespace) = &self.namespace {
            object.insert("namespace".into(), json!(namespace));
        }
        object.insert("mount".into(), json!(self.mount));
        object.insert("role".into(), json!(self.role));
        object.insert("rootFile".into(), json!(self.root_file));
        object.insert("auth".into(), self.auth.to_json());
        Json::Object(object)
    }
}

impl VaultAuth {
    fn to_json(&self) -> Json {
        match self {
            Self::TokenFile(file) => json!({"tokenFile": file}),
            Self::AppRole {
                mount,
                role_id_file,
                secret_id_file,
                secret_id_wrapped,
            } => json!({"appRole": {
                "mount": mount,
                "roleIdFile": role_id_file,
                "secretIdFile": secret_id_file,
                "secretIdWrapped": secret_id_wrapped,
            }}),
            Self::Kubernetes {
                mount,
                role,
                token_file,
            } => json!({"kubernetes": {"mount": mount, "role": role, "tokenFile": token_file}}),
            Self::Certificate { mount, role: None } => json!({"certificate": {"mount": mount}}),
            Self::Certificate {
                mount,
                role: Some(role),
            } => json!({"certificate": {"mount": mount, "role": role}}),
        }
    }
}

/// Reads `authority`, which may be missing.
pub(super) fn read(
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
        present_file(node, base, paths, report)
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
        .and_then(|node| present_file(node, base, paths, report));
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

fn read_auth(node: &Node, base: &Path, has_certificate: bool, report: &mut Report) -> Option<VaultAuth> {
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

/// A file that must be there. Files of secrets may come later.
fn present_file(node: &Node, base: &Path, paths: &mut Vec<NamedPath>, report: &mut Report) -> Option<PathBuf> {
    let path = values::path(node, base, report)?;
    paths.push(NamedPath {
        path: path.clone(),
        at: node.at,
        must_be_folder: false,
    });
    Some(path)
}

/// A part of a path in Vault's API: nothing that would have to be escaped.
fn is_segment(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !text.is_empty() && text.chars().all(plain) && !text.chars().all(|c| c == '.')
}

fn segment(node: &Node, expected: &str, report: &mut Report) -> Option<String> {
    parts(node, expected, false, report)
}

fn slashed(node: &Node, expected: &str, report: &mut Report) -> Option<String> {
    parts(node, expected, true, report)
}

fn parts(node: &Node, expected: &str, may_have_several: bool, report: &mut Report) -> Option<String> {
    const MAX: usize = 256;
    let text = node.text(expected, report)?;
    let several = text.split('/').all(is_segment);
    if text.len() > MAX || !several || (!may_have_several && text.contains('/')) {
        node.mismatch(&format!("{expected} (letters, digits, `_`, `-` and `.`)"), report);
        return None;
    }
    Some(text.to_owned())
}
