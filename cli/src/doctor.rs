//! `watchword doctor`: what this machine has and lacks, each with what mends it.
//!
//! Invariant: nothing is started, and nothing is changed but that folders of
//! meshes that ended are removed, as by every command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use clap::Args;
use serde::Serialize;
use watchword_control_plane::mesh_file::{AuthorityChoice, MeshFile, Service};

use crate::launcher::user_namespace::is_full_root;
use crate::machine::{self, Finding, State};
use crate::mesh_folder;
use crate::record::Record;
use crate::say;
use crate::status::Format;
use crate::up;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Also look at this mesh file, and at the Vault that it names
    #[arg(long, value_name = "FILE")]
    mesh_file: Option<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Told {
    /// Whether a mesh can start.
    ok: bool,
    findings: Vec<Finding>,
}

/// Looks at everything. Exit status 1 when something is missing.
pub(crate) async fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let base = mesh_folder::base();
    let mut findings = machine::examine(&base, is_full_root()).findings;
    findings.push(machine::kept().await);
    let running = mesh_folder::running(&base);
    match &flags.mesh_file {
        Some(file) => findings.extend(of_mesh(file, &base, &running).await),
        None => findings.push(meshes(&running)),
    }
    let ok = findings.iter().all(|finding| finding.state != State::Missing);
    match flags.output {
        Format::Json => say::out(serde_json::to_string_pretty(&Told { ok, findings })?)?,
        Format::Table => print(&findings)?,
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn meshes(running: &[String]) -> Finding {
    let seen = match running {
        [] => "none of yours runs".to_owned(),
        names => format!("running: {}", names.join(", ")),
    };
    Finding::good("meshes", seen)
}

async fn of_mesh(file: &Path, base: &Path, running: &[String]) -> Vec<Finding> {
    let mesh = match read(file) {
        Ok(mesh) => mesh,
        Err(mistakes) => return mistakes,
    };
    let mut findings = vec![Finding::good(
        "mesh file",
        format!(
            "mesh {} with {} services, without mistakes",
            mesh.name,
            mesh.services.len()
        ),
    )];
    if running.contains(&mesh.name) {
        findings.push(is_running(base, &mesh.name));
    }
    findings.extend(mesh.services.values().flat_map(of_service));
    if let AuthorityChoice::Vault(settings) = &mesh.authority {
        findings.extend(machine::ask_vault(settings).await);
    }
    findings
}

/// Its program, and what it is to be published at.
fn of_service(service: &Service) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(Err(problem)) = service
        .run
        .as_ref()
        .filter(|_| !service.env.contains_key("PATH"))
        .map(|run| machine::find_program(run, &service.directory))
    {
        let mend = "mend `run`, or install it; `chmod +x FILE` makes a file executable";
        findings.push(Finding::bad(
            "program",
            State::Missing,
            format!("{}: {problem}", service.name),
            mend,
        ));
    }
    for listen in service.publish.values() {
        if let Err(error) = up::listen_at(&service.name, *listen) {
            let mend = "as said there, or leave `publish` out";
            findings.push(Finding::bad("publish", State::Missing, format!("{error:#}"), mend));
        }
    }
    findings
}

fn read(file: &Path) -> Result<MeshFile, Vec<Finding>> {
    let mistakes = |found: Vec<watchword_policy::Diagnostic>| {
        let mistakes = found.iter().map(|mistake| {
            let mend = "mend it there; docs/mesh-file.md has every key";
            Finding::bad("mesh file", State::Missing, mistake.to_string(), mend)
        });
        mistakes.collect::<Vec<_>>()
    };
    let mesh = MeshFile::load(file).map_err(mistakes)?;
    mesh.load_policies().map_err(mistakes)?;
    mesh.load_trust_bundles().map_err(mistakes)?;
    Ok(mesh)
}

/// What is to be said when a mesh can't start since it runs already.
pub(crate) fn is_running(base: &Path, name: &str) -> Finding {
    let stop = match Record::load(&base.join(name)) {
        Ok(record) => format!("stop it with ctrl-C where it runs, or by `kill {}`", record.up_pid),
        Err(_) => "stop it with ctrl-C where it runs".to_owned(),
    };
    Finding::bad(
        "mesh",
        State::Missing,
        format!("a mesh named `{name}` is running"),
        format!("{stop}, or give this one another `name`"),
    )
}

fn print(findings: &[Finding]) -> std::io::Result<()> {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    for finding in findings {
        let (word, style) = word(finding.state);
        say::out(format!(
            "{:width$}  {style}{word:8}{style:#} {}",
            finding.check, finding.seen
        ))?;
        if let Some(mend) = &finding.mend {
            say::out(format!("{:width$}  {:8} {mend}", "", "-> "))?;
        }
    }
    let missing = findings
        .iter()
        .filter(|finding| finding.state == State::Missing)
        .count();
    match missing {
        0 => say::out("\na mesh can start here"),
        1 => say::out("\none thing is missing before a mesh can start here"),
        many => say::out(format!("\n{many} things are missing before a mesh can start here")),
    }
}

fn word(state: State) -> (&'static str, Style) {
    match state {
        State::Good => ("good", AnsiColor::Green.on_default()),
        State::Unknown => ("unknown", AnsiColor::Cyan.on_default()),
        State::Warning => ("warning", AnsiColor::Yellow.on_default()),
        State::Missing => ("missing", AnsiColor::Red.on_default().bold()),
    }
}
