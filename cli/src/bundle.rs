//! `watchword bundle export`: the roots of a mesh's trust domain, for those who
//! are to trust its workloads from elsewhere.

mod jwks;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::examples;
use crate::find_mesh::Selector;
use crate::say;

/// Beside the admin socket.
const BUNDLE: &str = "bundle.pem";
const MAX_FILE: u64 = 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the roots of the mesh's own trust domain
    #[command(after_help = examples::BUNDLE_EXPORT)]
    Export(Export),
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    selector: Selector,
    /// In which form
    #[arg(long, value_enum, default_value_t)]
    format: Form,
    /// Write it there instead of on standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// What `trustBundles` of a mesh file, curl and OpenSSL take
    #[default]
    Pem,
    /// What SPIFFE federation takes (SPIFFE Trust Domain and Bundle)
    Jwks,
}

/// Prints or writes it.
pub(crate) fn run(Command::Export(export): Command) -> anyhow::Result<()> {
    let found = export.selector.find()?;
    let path = found.admin.with_file_name(BUNDLE);
    let (pem, changed) = read(&path).with_context(|| {
        format!(
            "cannot read {}: the control plane writes it when it starts",
            path.display()
        )
    })?;
    let roots = roots(&pem).with_context(|| path.display().to_string())?;
    let text = match export.format {
        Form::Pem => pem,
        Form::Jwks => jwks::render(&roots, sequence(changed))?,
    };
    match export.out {
        None => say::out(text.trim_end())?,
        Some(file) => write(&file, text.trim_end()).with_context(|| format!("cannot write {}", file.display()))?,
    }
    Ok(())
}

fn read(path: &Path) -> std::io::Result<(String, SystemTime)> {
    let file = File::open(path)?;
    let changed = file.metadata()?.modified()?;
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok((text, changed))
}

fn roots(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let roots: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?;
    if roots.is_empty() {
        bail!("there is no root in it");
    }
    Ok(roots)
}

/// Grows with each bundle: when the control plane wrote it, in milliseconds.
fn sequence(changed: SystemTime) -> u64 {
    let since = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Whole or not at all: somebody may follow the file.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = File::create(&new)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}
