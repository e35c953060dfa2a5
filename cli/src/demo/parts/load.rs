//! Calls without a pause for breath: half of them on one connection that is
//! kept, half on fresh ones.
//!
//! Invariant: whatever happens it ends, with at most twice [`MOST`] calls made.

use std::time::Duration;

use http::Uri;
use serde::{Deserialize, Serialize};

use super::ask::{connect, send};
use super::{PATIENCE, input_ended};

/// Between two calls of one kind.
const PAUSE: Duration = Duration::from_millis(5);
const MOST: u64 = 50_000;

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Calls on a connection that was kept.
    pub(crate) kept: u64,
    /// Calls with a connection of their own.
    pub(crate) fresh: u64,
    /// Calls that were not answered with a success.
    pub(crate) failed: u64,
    /// The first of them.
    pub(crate) first_failure: Option<String>,
}

/// Gets `url` until standard input ends.
pub(crate) async fn run(url: &Uri) -> Counts {
    let mut counts = Counts::default();
    let work = async {
        let mut kept = None;
        while counts.kept < MOST {
            // A connection that broke is counted, and made anew.
            let sender = match kept.take() {
                Some(sender) => Ok(sender),
                None => connect(url).await,
            };
            let called = async {
                let mut sender = sender?;
                let status = send(&mut sender, url, "GET").await?.0;
                anyhow::ensure!(status.is_success(), "status {status}");
                Ok(sender)
            };
            kept = note(&mut counts, called).await;
            counts.kept += 1;
            tokio::time::sleep(PAUSE).await;
            let called = async {
                let status = send(&mut connect(url).await?, url, "GET").await?.0;
                anyhow::ensure!(status.is_success(), "status {status}");
                Ok(())
            };
            note(&mut counts, called).await;
            counts.fresh += 1;
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = input_ended() => {}
    }
    counts
}

async fn note<T>(counts: &mut Counts, call: impl Future<Output = anyhow::Result<T>>) -> Option<T> {
    let result = tokio::time::timeout(PATIENCE, call).await;
    let why = match result {
        Ok(Ok(value)) => return Some(value),
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
    };
    counts.failed += 1;
    counts.first_failure.get_or_insert(why);
    None
}
