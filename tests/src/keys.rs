//! Looks for private keys where none should be: in files, and in what
//! processes have open or mapped.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::programs::run;
use crate::{Mesh, is_root};

/// What DER of a key holds: PKCS#8 of P-256, of other curves, RSA and
/// Ed25519, then SEC1 of P-256 and P-384.
const DER: &[(&str, &[u8])] = &[
    (
        "PKCS#8 of P-256",
        b"\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06",
    ),
    (
        "PKCS#8 of a curve",
        b"\x02\x01\x00\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06",
    ),
    (
        "PKCS#8 of RSA",
        b"\x02\x01\x00\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01",
    ),
    ("PKCS#8 of Ed25519", b"\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20"),
    ("SEC1 of P-256", b"\x30\x77\x02\x01\x01\x04\x20"),
    ("SEC1 of P-384", b"\x30\x81\xa4\x02\x01\x01\x04\x30"),
    // The same in base64, without its armour.
    ("base64 of PKCS#8", b"MIGHAgEAMBMGByqGSM49"),
    ("base64 of SEC1", b"MHcCAQEEI"),
];
const PEM: &[u8] = b"PRIVATE KEY-----";

/// What kind of private key the bytes hold, if any.
pub fn private_key_in(bytes: &[u8]) -> Option<&'static str> {
    let finds = |pattern: &[u8]| positions(bytes, pattern).next().is_some();
    // Programs that read PEM hold its armour, with nothing in it.
    let has_pem = positions(bytes, PEM).any(|at| is_base64(&bytes[at + PEM.len()..]));
    let der = || DER.iter().find(|(_, pattern)| finds(pattern));
    if has_pem {
        Some("PEM")
    } else {
        der().map(|(name, _)| *name)
    }
}

fn positions<'a>(bytes: &'a [u8], pattern: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let windows = bytes.windows(pattern.len()).enumerate();
    windows.filter(move |(_, window)| *window == pattern).map(|(at, _)| at)
}

/// Whether a line of base64 follows.
fn is_base64(rest: &[u8]) -> bool {
    let line: Vec<u8> = rest
        .iter()
        .copied()
        .skip_while(u8::is_ascii_whitespace)
        .take(40)
        .collect();
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    line.len() == 40 && line.iter().all(is_letter)
}

/// All files below a folder; links, sockets and devices are left out.
///
/// # Errors
/// When a folder can't be read.
pub fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            found.extend(files_below(&entry.path())?);
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The files below a folder that hold a private key, and of what kind.
///
/// # Errors
/// When a file can't be read.
pub fn keys_below(folder: &Path) -> Result<Vec<(PathBuf, &'static str)>> {
    let mut keys = Vec::new();
    for file in files_below(folder)? {
        let bytes = fs::read(&file).with_context(|| file.display().to_string())?;
        keys.extend(private_key_in(&bytes).map(|kind| (file, kind)));
    }
    Ok(keys)
}

/// What the processes of a mesh have open or mapped: regular files, by the
/// path that reads them and the name that the kernel gives them. Each once.
const LOOK: &str = r#"
for pid in "$@"; do
    # What may not be looked into reads as empty else.
    ls "/proc/$pid/fd" >/dev/null && head -c 1 "/proc/$pid/maps" >/dev/null || exit 1
    for file in "/proc/$pid/fd"/* "/proc/$pid/exe"; do
        test -f "$file" && printf '%s\t%s\t%s\n' "$(stat -L -c %d:%i "$file")" "$file" "$(readlink "$file")"
    done
    sed -n 's|^[^/]* \(/.*\)$|\1|p' "/proc/$pid/maps" | sort -u | while read -r file; do
        test -f "$file" && printf '%s\t%s\t%s\n' "$(stat -L -c %d:%i "$file")" "$file" "$file" ||
            printf '%s\t\t%s\n' "$file" "$file"
    done
done
"#;

/// Files that processes have open or mapped.
#[derive(Debug, Default)]
pub struct Opened {
    /// By the name that the kernel gives: what kind of private key is in it.
    pub files: BTreeMap<String, Option<&'static str>>,
    /// Mapped, and not there any more by that name.
    pub unreadable: Vec<String>,
}

/// Looks into every regular file that these processes have open or mapped:
/// daemons of a mesh, or processes of our own.
///
/// # Errors
/// When a process or file can't be looked at.
pub fn opened_by(mesh: Option<&Mesh>, pids: &[i64]) -> Result<Opened> {
    let words: Vec<String> = pids.iter().map(ToString::to_string).collect();
    let mut command = vec!["sh", "-c", LOOK, "look"];
    command.extend(words.iter().map(String::as_str));
    let mut opened = Opened::default();
    let mut seen = std::collections::BTreeSet::new();
    for line in run(&mut beside(mesh, &command)?)?.lines() {
        let parts: Vec<_> = line.split('\t').collect();
        let [inode, path, name] = parts[..] else {
            anyhow::bail!("a line that can't be read: {line:?}");
        };
        if path.is_empty() {
            opened.unreadable.push(name.to_owned());
        } else if seen.insert(inode.to_owned()) {
            let finished = beside(mesh, &["cat", path])?.output()?;
            ensure!(finished.status.success(), "{path} ({name}) can't be read");
            opened.files.insert(name.to_owned(), private_key_in(&finished.stdout));
        }
    }
    Ok(opened)
}

/// Our daemons can't be looked at from outside, even by their owner: an
/// ordinary user needs the rights that he has in the mesh's user namespace.
fn beside(mesh: Option<&Mesh>, command: &[&str]) -> Result<Command> {
    let (program, arguments) = command.split_first().context("a command")?;
    let Some(mesh) = mesh.filter(|_| !is_root()) else {
        let mut plain = Command::new(program);
        plain.args(arguments);
        return Ok(plain);
    };
    let holder = mesh.record()?["replicas"][0]["holderPid"]
        .as_i64()
        .context("a holder")?;
    let mut enter = Command::new("nsenter");
    enter
        .args([
            "--user",
            "--preserve-credentials",
            "--target",
            &holder.to_string(),
            "--",
        ])
        .args(command);
    Ok(enter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_keys_are_found_in_every_form() {
        let key = rcgen::KeyPair::generate().unwrap();
        let plant = |key: &[u8]| [&[0xff; 777], key, b"after it"].concat();
        assert_eq!(private_key_in(&plant(key.serialize_pem().as_bytes())), Some("PEM"));
        let der = key.serialize_der();
        assert_eq!(private_key_in(&plant(&der)), Some("PKCS#8 of P-256"));
        // What PKCS#8 of a curve wraps.
        let sec1 = positions(&der, b"\x02\x01\x01\x04\x20").next().unwrap();
        let sec1 = [b"\x30\x77".as_slice(), &der[sec1..]].concat();
        assert_eq!(private_key_in(&plant(&sec1)), Some("SEC1 of P-256"));
        for (algorithm, kind) in [
            (&rcgen::PKCS_ECDSA_P384_SHA384, "PKCS#8 of a curve"),
            (&rcgen::PKCS_ED25519, "PKCS#8 of Ed25519"),
        ] {
            let der = rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_der();
            assert_eq!(private_key_in(&plant(&der)), Some(kind));
        }
    }

    #[test]
    fn certificates_public_keys_and_empty_armour_are_no_keys() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        assert_eq!(private_key_in(certificate.pem().as_bytes()), None);
        assert_eq!(private_key_in(certificate.der()), None);
        assert_eq!(private_key_in(key.public_key_pem().as_bytes()), None);
        assert_eq!(
            private_key_in(b"-----BEGIN PRIVATE KEY----------END PRIVATE KEY-----"),
            None
        );
        assert_eq!(private_key_in(b"PRIVATE KEY-----"), None);
    }
}
