//! What the two kinds of streams have in common.

use super::answers::Said;
use super::refusal::{Missing, Wrong};
use crate::workloads::Material;

/// One stream. Pure: no sockets, no tasks.
pub(super) trait Protocol: Default + Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;

    /// Takes a request. What it says of the last response is for the log.
    fn request(&mut self, request: Self::Request) -> Result<Said, Wrong>;

    /// What is to be sent, if anything: after a request, and whenever there is
    /// new material. A rejected version is never sent again.
    fn respond(&mut self, material: &Material) -> Result<Option<Self::Response>, Missing>;
}
