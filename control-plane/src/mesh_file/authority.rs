//! What signs, as the mesh file says it.

mod address;
mod login;
mod names;
mod read;

use std::path::PathBuf;

use serde_json::{Map, Value as Json, json};

pub use address::VaultAddress;
pub(super) use read::read;

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
