//! The server of all contenders: nginx with one configuration.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::load::BULK_MEGABYTES;

/// For calls that are judged as connections.
pub(crate) const TCP_PORT: u16 = 8080;
/// For calls that are judged as requests.
pub(crate) const HTTP_PORT: u16 = 8081;
/// Asks for the status of an answer.
pub(crate) const CURL: [&str; 11] = [
    "curl",
    "--silent",
    "--show-error",
    "--max-time",
    "20",
    "--noproxy",
    "*",
    "--output",
    "/dev/null",
    "--write-out",
    "%{http_code}",
];

/// The folder that it works in, with its configuration and the large file.
pub(crate) fn folder(parent: &Path) -> Result<PathBuf> {
    let own = parent.join("nginx");
    fs::create_dir(&own)?;
    // In a mesh it runs as somebody else.
    fs::set_permissions(&own, Permissions::from_mode(0o777))?;
    fs::write(own.join("nginx.conf"), include_str!("configs/server.conf"))?;
    let bulk = own.join("bulk");
    File::create(&bulk)?.set_len(BULK_MEGABYTES as u64 * 1_000_000)?;
    // Into the page cache, or whoever is the first would wait for it.
    io::copy(&mut File::open(bulk)?, &mut io::sink())?;
    Ok(own)
}
