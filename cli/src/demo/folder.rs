//! The demo's files: written where they are missing, and then taken as they
//! stand, so that who changes one sees what the demo says then.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::TempDir;
use watchword_control_plane::mesh_file::MeshFile;

const FILES: [(&str, &str); 2] = [
    ("mesh.yaml", include_str!("../../../examples/demo/mesh.yaml")),
    ("policies.yaml", include_str!("../../../examples/demo/policies.yaml")),
];

/// A folder with the demo's files.
#[derive(Debug)]
pub(crate) struct Folder {
    mesh_file: PathBuf,
    name: String,
    trust_domain: String,
    // Removed with it, unless it is the caller's.
    _temporary: Option<TempDir>,
}

impl Folder {
    /// Fills the caller's folder, or a temporary one.
    pub(crate) fn prepare(given: Option<&Path>) -> anyhow::Result<Self> {
        let (path, temporary) = match given {
            Some(path) => {
                fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
                let path = path.canonicalize()?;
                (path, None)
            }
            None => {
                let made = tempfile::Builder::new().prefix("watchword-demo-").tempdir();
                let made = made.context("cannot make a temporary folder (is the disk full? TMPDIR names another)")?;
                // As root the services are somebody else.
                fs::set_permissions(made.path(), Permissions::from_mode(0o755))?;
                (made.path().to_owned(), Some(made))
            }
        };
        for (name, text) in FILES {
            write_missing(&path.join(name), |file| fs::write(file, text))?;
        }
        // Where it was built the services' user may not look.
        let own = std::env::current_exe().context("cannot find this program")?;
        write_missing(&path.join("watchword"), |file| fs::copy(&own, file).map(|_| ()))?;
        let mesh_file = path.join("mesh.yaml");
        let mesh = MeshFile::load(&mesh_file).map_err(|mistakes| {
            let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}", mistakes.join("\n"))
        })?;
        Ok(Self {
            mesh_file,
            name: mesh.name.clone(),
            trust_domain: mesh.trust_domain.as_str().to_owned(),
            _temporary: temporary,
        })
    }

    /// The mesh file from now on: the one that was there, with this `authority`.
    pub(crate) fn let_sign(&mut self, authority: &serde_json::Value) -> anyhow::Result<()> {
        let text = fs::read_to_string(&self.mesh_file)?;
        self.mesh_file.set_file_name("mesh-with-vault.yaml");
        // JSON is YAML.
        fs::write(&self.mesh_file, format!("{text}authority: {authority}\n"))
            .with_context(|| format!("cannot write {}", self.mesh_file.display()))
    }

    /// The mesh file.
    pub(crate) fn mesh_file(&self) -> &Path {
        &self.mesh_file
    }

    /// Where its SPIFFE IDs lie.
    pub(crate) fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The mesh's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

fn write_missing(file: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> anyhow::Result<()> {
    if file.exists() {
        return Ok(());
    }
    write(file).with_context(|| format!("cannot write {}", file.display()))
}
