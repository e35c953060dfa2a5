//! What this machine has of what a mesh needs: asked by `doctor`, which shows
//! everything, and by `up`, which starts nothing while something is missing.
//!
//! Invariants: looking changes nothing (what is tried is tried in namespaces
//! that end with the try); whatever is not good comes with what mends it.

mod clock;
mod folder;
mod kernel;
mod open_files;
mod programs;
mod vault;

use std::fmt;
use std::path::Path;

use serde::Serialize;

pub(crate) use clock::kept;
pub(crate) use kernel::has_ipv6;
pub(crate) use programs::{find_program, search_path};
pub(crate) use vault::ask as ask_vault;

use crate::up::plan::Tools;

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As it should be.
    Good,
    /// It can't be told from here.
    Unknown,
    /// A mesh runs, but not as well as it could.
    Warning,
    /// No mesh starts like this.
    Missing,
}

/// One line of an examination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: &'static str,
    /// How it stands.
    pub(crate) state: State,
    /// What was seen.
    pub(crate) seen: String,
    /// What to do, with a command where there is one.
    pub(crate) mend: Option<String>,
}

impl Finding {
    pub(crate) fn good(check: &'static str, seen: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Good,
            seen: seen.into(),
            mend: None,
        }
    }

    pub(crate) fn bad(check: &'static str, state: State, seen: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            check,
            state,
            seen: seen.into(),
            mend: Some(mend.into()),
        }
    }

    fn missing(check: &'static str, seen: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::bad(check, State::Missing, seen, mend)
    }
}

/// In one sentence.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.mend {
            Some(mend) => write!(f, "{}: {mend}", self.seen),
            None => f.write_str(&self.seen),
        }
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub(crate) struct Examination {
    /// In the order in which they matter.
    pub(crate) findings: Vec<Finding>,
    /// Where programs are; none when one is missing.
    pub(crate) tools: Option<Tools>,
}

/// Looks at everything that every mesh needs, for meshes below `base` and, if
/// `root`, with other users. Takes part of a second.
pub(crate) fn examine(base: &Path, root: bool) -> Examination {
    let mut findings = vec![kernel::version(), kernel::namespaces(root)];
    let (programs, tools) = programs::find();
    findings.extend(programs);
    if let (Some(tools), true) = (&tools, findings.iter().all(|finding| finding.state != State::Missing)) {
        findings.push(kernel::interception(&tools.proxy));
    }
    findings.extend([
        kernel::ipv6(),
        clock::plausible(),
        open_files::limit(),
        folder::room(base),
    ]);
    Examination { findings, tools }
}
