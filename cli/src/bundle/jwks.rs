//! Roots as a JWK Set, by SPIFFE Trust Domain and Bundle, section 4. Pure.

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::curve;

/// How often, in seconds, who follows the bundle should look again: a new root
/// is published well before anything stands on it.
const REFRESH_HINT: u32 = 300;

/// The set of these roots.
pub(super) fn render(roots: &[CertificateDer<'_>], sequence: u64) -> anyhow::Result<String> {
    let keys = roots.iter().map(entry).collect::<anyhow::Result<Vec<_>>>()?;
    let set = json!({
        "spiffe_sequence": sequence,
        "spiffe_refresh_hint": REFRESH_HINT,
        "keys": keys,
    });
    Ok(serde_json::to_string_pretty(&set)?)
}

fn entry(root: &CertificateDer<'_>) -> anyhow::Result<Value> {
    let (_, certificate) = X509Certificate::from_der(root).map_err(|error| anyhow!("a root can't be read: {error}"))?;
    let mut entry = key(certificate.public_key())?;
    entry.insert("use".to_owned(), "x509-svid".into());
    entry.insert("x5c".to_owned(), json!([STANDARD.encode(root)]));
    Ok(entry.into())
}

/// The members that RFC 7518 (section 6) and RFC 8037 ask for.
fn key(info: &SubjectPublicKeyInfo<'_>) -> anyhow::Result<Map<String, Value>> {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let members = match info.parsed()? {
        PublicKey::RSA(key) => {
            let plain = |number: &[u8]| encode(number.strip_prefix(&[0]).unwrap_or(number));
            vec![
                ("kty", "RSA".to_owned()),
                ("n", plain(key.modulus)),
                ("e", plain(key.exponent)),
            ]
        }
        PublicKey::EC(point) => {
            let Some((4, coordinates)) = point.data().split_first() else {
                bail!("a root's key is a compressed point, which JWK does not know");
            };
            let curve = curve::name(info).context("a root's key is on a curve that JWK does not know")?;
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            vec![
                ("kty", "EC".to_owned()),
                ("crv", curve.to_owned()),
                ("x", encode(x)),
                ("y", encode(y)),
            ]
        }
        _ if info.algorithm.algorithm == OID_SIG_ED25519 => vec![
            ("kty", "OKP".to_owned()),
            ("crv", "Ed25519".to_owned()),
            ("x", encode(&info.subject_public_key.data)),
        ],
        _ => bail!(
            "a root's key has the algorithm {}, which JWK does not know",
            info.algorithm.algorithm
        ),
    };
    Ok(members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    fn root(key: &KeyPair) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.self_signed(key).unwrap().der().clone()
    }

    #[test]
    fn each_root_is_a_key_with_its_certificate() {
        let p256 = KeyPair::generate().unwrap();
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let roots = [&p256, &p384, &ed25519].map(root);
        let set: Value = serde_json::from_str(&render(&roots, 7).unwrap()).unwrap();
        assert_eq!(
            (&set["spiffe_sequence"], &set["spiffe_refresh_hint"]),
            (&7.into(), &300.into())
        );
        let keys = set["keys"].as_array().unwrap();
        let kinds: Vec<_> = keys.iter().map(|key| json!([key["kty"], key["crv"]])).collect();
        let expected = [
            json!(["EC", "P-256"]),
            json!(["EC", "P-384"]),
            json!(["OKP", "Ed25519"]),
        ];
        assert_eq!(kinds, expected);
        for (key, der) in keys.iter().zip(&roots) {
            assert_eq!(key["use"], "x509-svid");
            assert_eq!(key["x5c"], json!([STANDARD.encode(der)]));
            assert!(key.get("kid").is_none(), "the standard forbids it");
        }
        let point = p256.public_key_raw();
        assert_eq!(keys[0]["x"], URL_SAFE_NO_PAD.encode(&point[1..33]));
        assert_eq!(keys[0]["y"], URL_SAFE_NO_PAD.encode(&point[33..]));
    }
}
