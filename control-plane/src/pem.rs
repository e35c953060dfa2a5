//! Certificates and requests as text (RFC 7468).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// A certificate in PEM, with a line break at the end.
pub(crate) fn certificate(der: &[u8]) -> String {
    text("CERTIFICATE", der)
}

/// Checks that `read` are all the certificates that a text seems to hold. Where
/// files are put together and the first has no line break at its end, as Vault's
/// command prints it, readers pass over the second one's certificate.
///
/// # Errors
/// How many are lost, and why.
pub(crate) fn check_all_read(text: &[u8], read: usize) -> Result<(), String> {
    let begun = String::from_utf8_lossy(text).matches(BEGIN).count();
    if begun == read {
        return Ok(());
    }
    Err(format!(
        "only {read} of {begun} certificates can be read: each {BEGIN} must stand at the begin of a line"
    ))
}

/// Anything in PEM, with a line break at the end.
pub(crate) fn text(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let encoded = STANDARD.encode(der);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII, so any place is a boundary.
        let (line, more) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for length in [1, 47, 48, 49, 200] {
            let der: Vec<u8> = (0..length).collect();
            let text = certificate(&der);
            assert!(text.lines().all(|line| line.len() <= 64), "{text}");
            assert_eq!(CertificateDer::from_pem_slice(text.as_bytes()).unwrap().as_ref(), der);
        }
    }
}
