//! The rest of a request that is refused. Some HTTP/2 clients lose the answer
//! when their stream is reset while they still send, though the reset says
//! that nothing is wrong (RFC 9113 section 8.1), so it is heard out
//! (docs/decisions/0015-a-denied-request-is-heard-out.md).
//!
//! Invariants: nothing is kept; size and time are bounded. HTTP/1 needs none
//! of it, and where a caller waits to be asked for its body, reading would ask.

use std::time::Duration;

use http::Version;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

const MAX_BYTES: usize = 16 * 1024 * 1024;
const MAX_TIME: Duration = Duration::from_secs(5);

/// Reads and drops what comes, beside the answer. Not for gRPC, whose answer
/// may end its stream in one frame.
pub(crate) fn hear_out(version: Version, mut body: Incoming) {
    if version != Version::HTTP_2 || body.is_end_stream() {
        return;
    }
    tokio::spawn(timeout(MAX_TIME, async move {
        let mut left = MAX_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, bytes::Bytes::len);
            let Some(less) = left.checked_sub(length) else { return };
            left = less;
        }
    }));
}
