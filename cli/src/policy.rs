//! `watchword policy`: looks for mistakes in policy files, explains what they
//! decide, and tests that.
//!
//! Invariant: files are read, checked and asked by the code that the control
//! plane and the sidecars use, so that what is said here is what they would do.

mod check;
mod explain;
mod judge;
mod question;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::examples;
use crate::status::Format;

/// Exit status for a mistake in a file or a flag.
const MISTAKE: u8 = 2;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look for mistakes; exit status 2 when there are some
    #[command(after_help = examples::POLICY_CHECK)]
    Check {
        /// Check services and ports against this mesh file
        #[arg(long, value_name = "FILE")]
        mesh_file: Option<PathBuf>,
        /// Policy files and folders
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Say what is decided on a connection or a request, and by which rule; exit status 0 allowed, 1 denied, 2 mistake
    ///
    /// Without a flag about a request it is the connection that is explained. On http and grpc ports each request is
    /// judged by itself: say which one with --method, --path, --host and --header, or with --grpc.
    #[command(after_help = examples::POLICY_EXPLAIN)]
    Explain {
        #[command(flatten)]
        flags: question::Flags,
        #[command(flatten)]
        files: Files,
    },
    /// Compare decisions with those that are expected; exit status 1 when one differs, 2 mistake
    ///
    /// CASES is a YAML list. A case has the flags of `explain` as keys, `headers: {NAME: VALUE}` for --header, and
    /// `expect: allow` or `expect: deny`; `rule` says which rule must have made the decision, as RULE or POLICY/RULE,
    /// and `name` what the case is called.
    #[command(after_help = examples::POLICY_TEST)]
    Test {
        /// The file of cases
        cases: PathBuf,
        #[command(flatten)]
        files: Files,
    },
}

/// What policies are read, and how answers are printed.
#[derive(Debug, Args)]
pub(crate) struct Files {
    /// Check services and ports against this mesh file, and take protocols from it
    #[arg(long, value_name = "FILE")]
    mesh_file: Option<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Policy files and folders
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Runs one of the commands. All of them are done at once and need no runtime.
pub(crate) fn run(command: Command) -> ExitCode {
    match command {
        Command::Check { mesh_file, paths } => check::run(mesh_file.as_deref(), &paths),
        Command::Explain { flags, files } => explain::run(flags, &files),
        Command::Test { cases, files } => test::run(&cases, &files),
    }
}

/// `no errors`, `1 error`, `2 errors`.
fn counted(number: usize, one: &str, many: &str) -> String {
    match number {
        0 => format!("no {many}"),
        1 => format!("1 {one}"),
        _ => format!("{number} {many}"),
    }
}
