//! `watchword token create`: a one-time join token.

use crate::admin_client::Admin;
use crate::find_mesh::Selector;
use crate::say;

/// Prints a token for `id` on standard output, and nothing else there.
pub(crate) async fn create(selector: &Selector, id: &spiffe::SpiffeId) -> anyhow::Result<()> {
    let found = selector.find()?;
    let answer = Admin::new(&found.admin).create_token(&id.to_string()).await?;
    say::out(answer.token)?;
    Ok(())
}
