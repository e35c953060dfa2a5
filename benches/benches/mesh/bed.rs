//! A mesh of two services with one sidecar each, and what the kernel and the
//! sidecars say of them.
//!
//! Must not know: what is measured.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use watchword_benches::held::Held;
use watchword_benches::kernel::{cpu_of, memory_of, sidecar};
use watchword_tests::{Mesh, MeshFile, wait_until};

use crate::load;

/// The service that calls, and the one that is called.
pub(crate) const SERVICES: [&str; 2] = ["web", "orders"];

const POLICY: &str = "name: orders\nservice: spiffe://example.org/orders\n\
                      allow: [{name: web calls, from: [spiffe://example.org/web]}]\n";

/// The mesh, running.
pub(crate) struct Bed {
    pub(crate) mesh: Mesh,
    program: PathBuf,
    /// In the order of [`SERVICES`].
    sidecars: [i64; 2],
}

impl Bed {
    /// `top`: more keys of the mesh file.
    pub(crate) fn start(top: &str) -> Result<Self> {
        let run = format!("run: [./program, {}, serve]", load::COMMAND);
        let port = load::PORT;
        let services = format!(
            "web: {{run: [sleep, infinity]}}\n\
             orders: {{{run}, ports: {{{port}: tcp}}, healthy: {{port: {port}}}}}"
        );
        let file = MeshFile::with(top, &services, POLICY)?;
        // The programs run as somebody else, who may not look into our folders.
        let program = file.folder().join("program");
        fs::copy(std::env::current_exe()?, &program)?;
        let mesh = file.up()?;
        let sidecars = [sidecar(&mesh, "web")?, sidecar(&mesh, "orders")?];
        let bed = Self {
            mesh,
            program,
            sidecars,
        };
        Ok(bed)
    }

    /// A load of `web`, to its end.
    pub(crate) fn load(&self, words: &[&str]) -> Result<String> {
        self.run("web", words)
    }

    /// Opens so many connections of `web`, one byte each way on each.
    pub(crate) fn hold(&self, count: usize) -> Result<Held> {
        let count = count.to_string();
        let mut command = self.mesh.exec_command("web", &self.words(&["hold", &count])?)?;
        Held::open(&mut command).with_context(|| self.warnings())
    }

    /// What went wrong, as the sidecars say.
    fn warnings(&self) -> String {
        let text = self.mesh.output().text();
        let warnings: Vec<_> = text.lines().filter(|line| line.contains("WARN")).take(20).collect();
        warnings.join("\n")
    }

    /// The sum of a sidecar's metric over all labels.
    pub(crate) fn metric(&self, service: &str, name: &str) -> Result<u64> {
        let page = self.run(service, &["metrics"])?;
        let lines = page.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(values.sum())
    }

    /// Waits until no connection is open in either sidecar.
    pub(crate) fn wait_until_idle(&self) -> Result<()> {
        for service in SERVICES {
            wait_until("all connections to end", || {
                self.metric(service, "watchword_connections_active")
                    .is_ok_and(|open| open == 0)
            })?;
        }
        Ok(())
    }

    /// Seconds of CPU that the sidecars have used, in the order of [`SERVICES`].
    pub(crate) fn cpu(&self) -> Result<[f64; 2]> {
        let [web, orders] = self.sidecars;
        Ok([cpu_of(web)?, cpu_of(orders)?])
    }

    /// Resident memory of the sidecars in KiB, in the order of [`SERVICES`].
    pub(crate) fn memory(&self) -> Result<[f64; 2]> {
        let [web, orders] = self.sidecars;
        Ok([memory_of(web)?, memory_of(orders)?])
    }

    fn run(&self, service: &str, words: &[&str]) -> Result<String> {
        self.mesh.exec_ok(service, &self.words(words)?)
    }

    fn words<'a>(&'a self, words: &[&'a str]) -> Result<Vec<&'a str>> {
        let program = self.program.to_str().context("the path of a temporary folder")?;
        Ok([&[program, load::COMMAND], words].concat())
    }
}

/// What was added, in the order of [`SERVICES`].
pub(crate) fn added(before: [f64; 2], after: [f64; 2]) -> [f64; 2] {
    let ([web, orders], [later_web, later_orders]) = (before, after);
    [later_web - web, later_orders - orders]
}
