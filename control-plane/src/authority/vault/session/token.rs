//! A token of Vault's, and how long it is good for.

use std::time::Duration;

use tokio::time::Instant;

use crate::authority::vault::files::FileState;
use crate::authority::vault::secret::Secret;

/// A token, with a number by which callers say which one was refused.
#[derive(Clone)]
pub(in crate::authority::vault) struct Token {
    pub(in crate::authority::vault) secret: Secret,
    pub(in crate::authority::vault) number: u64,
    pub(super) life: Option<Life>,
    pub(super) file: Option<FileState>,
}

/// Of a token that ends.
#[derive(Clone, Copy)]
pub(super) struct Life {
    pub(super) ends: Instant,
    pub(super) renew_at: Instant,
    /// At first; a renewal that gives less than half of it nears the maximum.
    pub(super) full: Duration,
    pub(super) renewable: bool,
}

/// Of a lease of so many seconds; 0 is one that does not end.
pub(super) fn life(seconds: u64, renewable: bool, full: Option<Duration>) -> Option<Life> {
    let lease = Duration::from_secs(seconds.min(10 * 365 * 24 * 3600));
    (!lease.is_zero()).then(|| Life {
        ends: Instant::now() + lease,
        renew_at: Instant::now() + lease.mul_f64(0.5 + fastrand::f64() / 10.0),
        full: full.unwrap_or(lease),
        renewable,
    })
}
