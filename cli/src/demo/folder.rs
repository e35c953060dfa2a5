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
    path: PathBuf,
    name: String,
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
        let mesh = path.join("mesh.yaml");
        let name = MeshFile::load(&mesh).map_err(|mistakes| {
            let mistakes: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}", mistakes.join("\n"))
        })?;
        Ok(Self {
            name: name.name,
            path,
            _temporary: temporary,
        })
    }

    /// The mesh file.
    pub(crate) fn mesh_file(&self) -> PathBuf {
        self.path.join("mesh.yaml")
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
