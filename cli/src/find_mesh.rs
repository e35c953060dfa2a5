//! Which mesh a command means.

use std::path::PathBuf;

use clap::Args;

use crate::mesh_folder;

/// The flags by which people name a mesh.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Selector {
    /// The mesh's name; by default the only one that runs
    #[arg(long, value_name = "NAME", conflicts_with = "admin")]
    mesh: Option<String>,
    /// The admin socket of a control plane
    #[arg(long, value_name = "SOCKET")]
    admin: Option<PathBuf>,
}

/// A mesh that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where its control plane answers.
    pub(crate) admin: PathBuf,
    /// Its folder, when `up` runs it.
    pub(crate) folder: Option<PathBuf>,
}

/// Why no mesh, or not just one, is meant.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FindError {
    /// None runs.
    #[error(
        "no mesh of yours is running: start one with `watchword up FILE`, or name a control plane with `--admin SOCKET`"
    )]
    None,
    /// The named one does not.
    #[error("no mesh named `{name}` is running{}", list(running))]
    NotThis {
        /// The name that was given.
        name: String,
        /// Those that run.
        running: Vec<String>,
    },
    /// Several run.
    #[error("several meshes are running: say which one with `--mesh`{}", list(.0))]
    Several(Vec<String>),
}

impl Selector {
    /// Finds the mesh that is meant; folders of meshes that ended are removed
    /// on the way.
    pub(crate) fn find(&self) -> Result<Found, FindError> {
        if let Some(admin) = &self.admin {
            let folder = admin.parent().filter(|folder| folder.join("mesh.json").exists());
            return Ok(Found {
                admin: admin.clone(),
                folder: folder.map(PathBuf::from),
            });
        }
        let base = mesh_folder::base();
        let name = choose(self.mesh.as_deref(), mesh_folder::running(&base))?;
        let folder = base.join(name);
        Ok(Found {
            admin: folder.join("admin.sock"),
            folder: Some(folder),
        })
    }
}

fn choose(wanted: Option<&str>, mut running: Vec<String>) -> Result<String, FindError> {
    if let Some(name) = wanted {
        return match running.iter().any(|other| other == name) {
            true => Ok(name.to_owned()),
            false => Err(FindError::NotThis {
                name: name.to_owned(),
                running,
            }),
        };
    }
    match (running.pop(), running.is_empty()) {
        (None, _) => Err(FindError::None),
        (Some(only), true) => Ok(only),
        (Some(last), false) => {
            running.push(last);
            Err(FindError::Several(running))
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        String::new()
    } else {
        format!(" (running: {})", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_only_one_is_meant_and_a_name_chooses() {
        assert_eq!(choose(None, names(&["shop"])), Ok("shop".to_owned()));
        assert_eq!(choose(Some("b"), names(&["a", "b"])), Ok("b".to_owned()));
    }

    #[test]
    fn errors_list_what_runs() {
        assert_eq!(choose(None, names(&[])), Err(FindError::None));
        let several = choose(None, names(&["a", "b"])).map_err(|error| error.to_string());
        assert_eq!(
            several,
            Err("several meshes are running: say which one with `--mesh` (running: a, b)".to_owned())
        );
        let other = choose(Some("c"), names(&["a"])).map_err(|error| error.to_string());
        assert_eq!(other, Err("no mesh named `c` is running (running: a)".to_owned()));
    }
}
