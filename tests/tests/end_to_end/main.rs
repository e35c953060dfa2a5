//! Whole behaviour, on real meshes. Names read as sentences.
//!
//! `needs_root` holds what an ordinary user can't test; everything else runs
//! as root and as an ordinary user alike.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod apps;
mod bad_input;
mod calls;
mod certificates;
mod command_line;
mod fidelity;
mod leftovers;
mod needs_root;
mod strangers;
mod wire;
