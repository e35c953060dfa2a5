//! `watchword cert view`: what certificates say, wherever they are: in a file,
//! at a server, in the sidecars of a mesh.
//!
//! Invariant: nothing here says that a certificate is to be trusted, and what
//! was not verified is called so.

mod describe;
mod show;
mod target;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;
use tokio::net::TcpStream;
use watchword_daemon::{Clock as _, SystemClock};

use self::describe::Described;
use self::target::Target;
use crate::examples;
use crate::find_mesh::Selector;
use crate::record::{Record, RunningReplica};
use crate::say;
use crate::sidecar_client::{self, Certificate};
use crate::status::Format;

const MAX_FILE: u64 = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what certificates say, of a file, a server or the services of a mesh
    #[command(after_help = examples::CERT_VIEW)]
    View(View),
}

#[derive(Debug, Args)]
pub(crate) struct View {
    #[command(flatten)]
    selector: Selector,
    /// A file in PEM or DER, HOST:PORT of a server, or a service or replica; all services if it is left out
    #[arg(value_name = "FILE|ADDRESS|SERVICE")]
    target: Option<String>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The certificates of one place.
#[derive(Debug, Serialize)]
struct Found {
    /// The file, address or replica.
    source: String,
    /// Nobody has verified what a stranger shows.
    verified: Option<bool>,
    /// Leaf first.
    certificates: Vec<Described>,
    /// Why there are none.
    error: Option<String>,
}

/// Shows them.
pub(crate) async fn run(Command::View(view): Command) -> anyhow::Result<()> {
    let target = view.target.as_deref().map(Target::parse).transpose()?;
    let found = match &target {
        Some(Target::File(path)) => {
            let chain = read(path)?;
            let certificates = described(&chain).with_context(|| path.display().to_string())?;
            vec![Found {
                source: path.display().to_string(),
                verified: None,
                certificates,
                error: None,
            }]
        }
        Some(Target::Address { host, port }) => vec![look(host, *port).await?],
        Some(Target::Service(name)) => of_mesh(&view.selector, Some(name)).await?,
        None => of_mesh(&view.selector, None).await?,
    };
    let in_full = target.is_some();
    match view.output {
        Format::Json => say::out(serde_json::to_string_pretty(&found)?)?,
        Format::Table if in_full => show::in_full(&found)?,
        Format::Table => show::table(&found)?,
    }
    Ok(())
}

fn described(chain: &[CertificateDer<'_>]) -> anyhow::Result<Vec<Described>> {
    describe::chain(chain, SystemClock.now()).map_err(|problem| anyhow!(problem))
}

/// All certificates of a file, in its order.
fn read(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let place = path.display();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {place}"))?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("{place} has more than {MAX_FILE} bytes, so it is no file of certificates");
    }
    // DER of a certificate begins with a SEQUENCE.
    if bytes.first() == Some(&0x30) {
        return Ok(vec![CertificateDer::from(bytes)]);
    }
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    // The parser's reason could quote a key.
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => bail!("there is no certificate in {place}: expected DER, or PEM with `BEGIN CERTIFICATE`"),
        Err(_) => bail!("{place} is broken: between `BEGIN CERTIFICATE` and `END CERTIFICATE` there is no base64"),
    }
}

/// What the server there shows to whoever calls.
async fn look(host: &str, port: u16) -> anyhow::Result<Found> {
    let source = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    let stream = tokio::time::timeout(PATIENCE, TcpStream::connect((host, port)))
        .await
        .map_err(|_| anyhow!("no answer within {} s", PATIENCE.as_secs()))
        .and_then(|stream| stream.map_err(Into::into))
        .with_context(|| format!("cannot connect to {source}"))?;
    let chain = watchword_mtls::look_at_server(stream, host)
        .await
        .with_context(|| format!("{source} shows no certificate (is TLS 1.3 spoken there?)"))?;
    Ok(Found {
        certificates: described(&chain).with_context(|| source.clone())?,
        source,
        verified: Some(false),
        error: None,
    })
}

/// Of the replicas of a running mesh that `name` means, or of all.
async fn of_mesh(selector: &Selector, name: Option<&str>) -> anyhow::Result<Vec<Found>> {
    let found = match (selector.find(), name) {
        (Ok(found), _) => found,
        (Err(error), Some(name)) => bail!("`{name}` is no file and no HOST:PORT; as for services: {error}"),
        (Err(error), None) => return Err(error.into()),
    };
    let Some(folder) = found.folder else {
        bail!(
            "{} is not the control plane of a mesh that `watchword up` runs: name a FILE or an ADDRESS",
            found.admin.display()
        );
    };
    let record = Record::load(&folder)?;
    let meant = |running: &&RunningReplica| {
        let replica = &running.replica;
        name.is_none_or(|name| replica.name == name || replica.service == name)
    };
    let replicas: Vec<_> = record.replicas.iter().filter(meant).cloned().collect();
    if let (Some(name), true) = (name, replicas.is_empty()) {
        return Err(record.unknown(name));
    }
    let asked: Vec<_> = replicas.into_iter().map(|replica| tokio::spawn(ask(replica))).collect();
    let mut all = Vec::new();
    for task in asked {
        all.push(task.await?);
    }
    Ok(all)
}

async fn ask(running: RunningReplica) -> Found {
    let chain = match sidecar_client::get::<Option<Certificate>>(&running.admin_socket, "/certs").await {
        Ok(Some(certificate)) => decode(&certificate),
        Ok(None) => Err("it has no certificate yet".to_owned()),
        Err(error) => Err(format!("the sidecar: {error}")),
    };
    let described = chain.and_then(|chain| describe::chain(&chain, SystemClock.now()));
    Found {
        source: running.replica.name,
        // The sidecar has verified what it goes by.
        verified: described.is_ok().then_some(true),
        error: described.as_ref().err().cloned(),
        certificates: described.unwrap_or_default(),
    }
}

fn decode(certificate: &Certificate) -> Result<Vec<CertificateDer<'static>>, String> {
    let decode = |text: &String| STANDARD.decode(text).map(CertificateDer::from);
    let chain: Result<Vec<_>, _> = certificate.chain.iter().map(decode).collect();
    chain.map_err(|error| format!("the sidecar's answer is broken: {error}"))
}
