//! Certificates that the mesh's own authority could have signed: by its real
//! keys, which its owner can read.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use watchword_tests::Mesh;

/// Who signs, and the certificates that a peer needs to believe it.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    chain: String,
}

impl Authority {
    /// The intermediate of a running mesh.
    pub(crate) fn of(mesh: &Mesh) -> Self {
        let folder = mesh.run_folder().unwrap().join("state/authority");
        // Certificate and key in one file.
        let pem = std::fs::read_to_string(folder.join("intermediate.pem")).unwrap();
        let key = pem.find("-----BEGIN PRIVATE KEY").unwrap();
        let (certificate, key) = pem.split_at(key);
        Self {
            issuer: Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key).unwrap()).unwrap(),
            chain: certificate.to_owned(),
        }
    }

    /// The root of a running mesh, whose key lies beside it.
    pub(crate) fn root_of(mesh: &Mesh) -> Self {
        let folder = mesh.run_folder().unwrap().join("state/authority");
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let key = KeyPair::from_pem(&read("root-key.pem")).unwrap();
        Self {
            issuer: Issuer::from_ca_cert_pem(&read("root.pem"), key).unwrap(),
            chain: String::new(),
        }
    }

    /// One that the mesh does not know.
    pub(crate) fn unknown() -> Self {
        let mut params = ca("unknown");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self {
            issuer: Issuer::new(params, KeyPair::generate().unwrap()),
            chain: String::new(),
        }
    }

    /// An issuer below this one.
    pub(crate) fn below(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca("below");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            chain: certificate.pem() + &self.chain,
        }
    }

    /// What a workload presents, changed: the chain and its key, PEM.
    pub(crate) fn leaf(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![uri(id)];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        format!("{}{}{}", certificate.pem(), self.chain, key.serialize_pem())
    }

    /// The same chain with its issuers fifty times.
    pub(crate) fn leaf_with_long_chain(&self, id: &str) -> String {
        Self {
            issuer: Issuer::from_ca_cert_pem(&self.chain, copy_of(self.issuer.key())).unwrap(),
            chain: self.chain.repeat(50),
        }
        .leaf(id, |_| {})
    }
}

fn copy_of(key: &KeyPair) -> KeyPair {
    KeyPair::from_pem(&key.serialize_pem()).unwrap()
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// Puts a certificate where an attacker finds it.
pub(crate) fn write(mesh: &Mesh, name: &str, pem: &str) -> String {
    let path: PathBuf = mesh.file().write(name, pem).unwrap();
    path.to_str().unwrap().to_owned()
}
