//! An authority and a certificate for each side, for contenders that read
//! them from files: P-256 and one URI SAN, as ours have them.

use std::fs;
use std::path::Path;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rcgen::{DnType, KeyUsagePurpose, SanType};

/// `root.pem`, and for each side `SIDE.pem`, `SIDE-key.pem`, and `SIDE-both.pem`
/// with both of them. The side's name is the CN, too, for those that can't
/// compare a URI SAN.
pub(crate) fn write(folder: &Path, sides: [&str; 2]) -> Result<()> {
    let mut root = CertificateParams::default();
    root.distinguished_name
        .push(DnType::CommonName, "the root of a benchmark");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    fs::write(folder.join("root.pem"), root.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(root, key);
    for side in sides {
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = DistinguishedName::new();
        leaf.distinguished_name.push(DnType::CommonName, side);
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let id = format!("spiffe://example.org/{side}");
        leaf.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        leaf.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let (chain, key) = (leaf.signed_by(&key, &issuer)?.pem(), key.serialize_pem());
        fs::write(folder.join(format!("{side}-both.pem")), format!("{chain}{key}"))?;
        fs::write(folder.join(format!("{side}.pem")), chain)?;
        fs::write(folder.join(format!("{side}-key.pem")), key)?;
    }
    Ok(())
}
