//! The canary: a connection to port 15099 arrives here only where interception
//! is there, and is answered with this process's instance id, so that whoever
//! dialled it from outside knows that it reached this sidecar.
//!
//! Invariants: it is answered before anything is asked of the caller; where
//! somebody is expected to dial it, the sidecar is not ready by a family that
//! nobody reached it by for a while.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use watchword_daemon::Blocker;

use crate::config::Family;

/// It is dialled each minute: twice it may be late.
const PATIENCE: Duration = Duration::from_secs(150);

/// Clones share one state.
#[derive(Clone)]
pub(crate) struct Canary {
    inner: Arc<Inner>,
}

struct Inner {
    instance: String,
    /// By IPv4 and IPv6.
    reached: Mutex<[Option<Instant>; 2]>,
    news: Notify,
}

impl Canary {
    /// With an id that no other process has.
    pub(crate) fn new() -> Self {
        let inner = Inner {
            instance: format!("{:016x}", fastrand::u64(..)),
            reached: Mutex::default(),
            news: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What it answers with.
    pub(crate) fn instance(&self) -> &str {
        &self.inner.instance
    }

    /// Answers who dialled `dialled`, and notes by which family they came.
    pub(crate) async fn answer(&self, mut stream: TcpStream, dialled: SocketAddr) {
        self.note(Family::of(dialled.ip()), Instant::now());
        let body = format!("{}\n", self.inner.instance);
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    /// Blocks readiness while it was not reached by one of `families`.
    pub(crate) async fn watch(self, families: Vec<Family>, blocker: Blocker) {
        loop {
            match self.missing(&families, Instant::now()) {
                Some(family) => blocker.block(unreached(family)),
                None => blocker.clear(),
            }
            tokio::select! {
                () = self.inner.news.notified() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    fn note(&self, family: Family, now: Instant) {
        let [ipv4, ipv6] = &mut *self.inner.reached.lock().unwrap_or_else(PoisonError::into_inner);
        *match family {
            Family::Ipv4 => ipv4,
            Family::Ipv6 => ipv6,
        } = Some(now);
        self.inner.news.notify_one();
    }

    fn missing(&self, families: &[Family], now: Instant) -> Option<Family> {
        let [ipv4, ipv6] = *self.inner.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let is_missing = |family: &Family| {
            let reached = match family {
                Family::Ipv4 => ipv4,
                Family::Ipv6 => ipv6,
            };
            reached.is_none_or(|reached| now.saturating_duration_since(reached) > PATIENCE)
        };
        families.iter().copied().find(is_missing)
    }
}

/// Why the sidecar is not ready.
pub(crate) fn unreached(family: Family) -> String {
    format!(
        "port 15099 was not reached from outside by {family} yet, or not for {} s: `watchword-proxy intercept \
         install` captures it",
        PATIENCE.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_expected_family_must_reach_it_again_and_again() {
        let canary = Canary::new();
        let both = [Family::Ipv4, Family::Ipv6];
        let start = Instant::now();
        assert_eq!(canary.missing(&both, start), Some(Family::Ipv4));
        canary.note(Family::Ipv4, start);
        assert_eq!(canary.missing(&both, start), Some(Family::Ipv6));
        assert_eq!(canary.missing(&[Family::Ipv4], start), None);
        canary.note(Family::Ipv6, start + Duration::from_secs(1));
        assert_eq!(canary.missing(&both, start + PATIENCE), None);
        let later = start + PATIENCE + Duration::from_millis(1);
        assert_eq!(canary.missing(&both, later), Some(Family::Ipv4));
        canary.note(Family::Ipv4, later);
        assert_eq!(canary.missing(&both, later), None);
    }

    #[test]
    fn no_two_have_one_instance_id() {
        assert_ne!(Canary::new().instance(), Canary::new().instance());
    }
}
