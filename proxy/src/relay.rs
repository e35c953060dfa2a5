//! Bytes of a connection that has no tunnel: both ways, to the end of both.

use tokio::io::AsyncWriteExt;
use watchword_tunnel::AppStream;

use crate::ended::{Ended, Verdict};

/// `read` was read from the caller already. Dropped in between, it resets both
/// sides: neither may take a cut for the end of its data, nor our being killed.
pub(crate) async fn relay(
    (mut caller, read): (impl AppStream, Vec<u8>),
    mut called: impl AppStream,
    verdict: Verdict,
) -> Ended {
    caller.guard(true);
    called.guard(true);
    let carried = async {
        called.write_all(&read).await?;
        called.flush().await?;
        tokio::io::copy_bidirectional(&mut caller, &mut called).await
    };
    match carried.await {
        Ok((sent, received)) => {
            caller.guard(false);
            called.guard(false);
            Ended::finished(sent + read.len() as u64, received, verdict)
        }
        Err(error) => Ended::failed("app-reset", error.to_string()),
    }
}
