//! Tools that others made: load, conformance, interoperability; and peers of
//! our own on what others made.
//!
//! Invariants: tests/tools pins what they are; a test whose tool can't be had
//! fails with the reason.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow, ensure};

use crate::programs::run;

/// The program of a tool, by `scripts/test-tool`, which lists them; found or
/// made once per process.
///
/// # Errors
/// With what the script says, when it can't be made.
pub fn tool(name: &str) -> Result<PathBuf> {
    static FOUND: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    // Held while it is made: a test that wants the same one waits for it.
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = found.get(name) {
        return Ok(path.clone());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/test-tool");
    let said = run(Command::new(script).arg(name)).map_err(|why| anyhow!("no {name} by scripts/test-tool: {why:#}"))?;
    let path = PathBuf::from(said.trim());
    ensure!(
        path.is_file(),
        "scripts/test-tool {name} printed {said:?}, which is no program"
    );
    found.insert(name.to_owned(), path.clone());
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it says when asked, whatever its exit status.
    fn says(name: &str, arguments: &[&str]) -> String {
        let asked = Command::new(tool(name).unwrap()).args(arguments).output().unwrap();
        String::from_utf8_lossy(&[asked.stdout, asked.stderr].concat()).into_owned()
    }

    #[test]
    fn each_tool_of_the_tests_runs() {
        assert_eq!(says("fortio", &["version"]).trim(), "1.68.2");
        assert!(says("h2spec", &["--help"]).contains("h2spec"));
        assert!(says("grpc-interop-client", &["--help"]).contains("test_case"));
        assert!(says("grpc-interop-server", &["--help"]).contains("-port"));
        let version = "import websockets; print(websockets.__version__)";
        assert_eq!(says("websockets", &["-c", version]).trim(), "17.4");
        assert!(says("spiffe-go", &[]).contains("usage: serve PORT"));
        let peer = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/spiffe_peer.py");
        assert!(says("spiffe-python", &[peer]).contains("usage: serve PORT"));
        let version = "from importlib.metadata import version; print(version('spiffe'))";
        assert_eq!(says("spiffe-python", &["-c", version]).trim(), "0.3.2");
        assert!(says("grpcurl", &["-version"]).contains("grpcurl"));
        assert!(says("envoy", &["--version"]).contains("/1.40.0/"));
    }

    #[test]
    fn a_tool_that_is_not_there_is_an_error_that_says_so() {
        let why = tool("no-such-tool").unwrap_err().to_string();
        assert!(why.contains("no-such-tool is no tool of the tests"), "{why}");
    }
}
