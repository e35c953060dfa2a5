//! What the control plane counts.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, UpDownCounter};
use watchword_daemon::Metrics;

/// The control plane's instruments. Clones count together.
#[derive(Debug, Clone)]
pub struct ControlMetrics {
    issuance: Counter<u64>,
    duration: Histogram<f64>,
    up: Gauge<u64>,
    refusals: Counter<u64>,
    alarms: Counter<u64>,
    versions: Gauge<u64>,
    subscribers: UpDownCounter<i64>,
    rejected: Counter<u64>,
    handshakes: Counter<u64>,
}

impl ControlMetrics {
    /// Makes the instruments.
    pub fn new(metrics: &Metrics) -> Self {
        let meter = metrics.meter();
        Self {
            issuance: meter
                .u64_counter("watchword_issuance")
                .with_description("Certificates that were asked of the authority.")
                .build(),
            duration: meter
                .f64_histogram("watchword_issuance_duration")
                .with_unit("s")
                .with_description("From the request to the checked certificate.")
                .with_boundaries(vec![
                    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
                ])
                .build(),
            up: meter
                .u64_gauge("watchword_authority_up")
                .with_description("Whether the authority answered when it was asked last: 1 or 0.")
                .build(),
            refusals: meter
                .u64_counter("watchword_attestation_refusals")
                .with_description("Callers that were refused before anything was signed.")
                .build(),
            alarms: meter
                .u64_counter("watchword_alarms")
                .with_description("What a person should look at.")
                .build(),
            versions: meter
                .u64_gauge("watchword_snapshot_version")
                .with_description("The newest version of each snapshot, within this epoch.")
                .build(),
            subscribers: meter
                .i64_up_down_counter("watchword_subscribers")
                .with_description("Proxies that are connected.")
                .build(),
            rejected: meter
                .u64_counter("watchword_snapshots_rejected")
                .with_description("Snapshots that a proxy refused to take.")
                .build(),
            handshakes: meter
                .u64_counter("watchword_control_handshakes")
                .with_description("TLS handshakes with callers of the control plane.")
                .build(),
        }
    }

    /// The authority was asked; `reason` is empty when it signed what it should.
    pub fn signed(&self, authority: &'static str, reason: &'static str, took: Duration) {
        let result = if reason.is_empty() { "issued" } else { "failed" };
        self.issuance.add(
            1,
            &[
                KeyValue::new("authority", authority),
                KeyValue::new("result", result),
                KeyValue::new("reason", reason),
            ],
        );
        let authority = [KeyValue::new("authority", authority)];
        self.duration.record(took.as_secs_f64(), &authority);
        // What it signed may be withheld, but it has answered.
        let answered = !reason.starts_with("authority-");
        self.up.record(u64::from(answered), &authority);
    }

    /// A caller was refused.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// Somebody should look.
    pub fn alarm(&self, alarm: &'static str) {
        self.alarms.add(1, &[KeyValue::new("alarm", alarm)]);
    }

    /// A snapshot has a new version.
    pub fn published(&self, kind: &'static str, version: u64) {
        self.versions.record(version, &[KeyValue::new("kind", kind)]);
    }

    /// A proxy came (+1) or went (-1).
    pub fn subscribers_changed(&self, by: i64) {
        self.subscribers.add(by, &[]);
    }

    /// A proxy answered with a Nack.
    pub fn snapshot_rejected(&self, kind: &'static str) {
        self.rejected.add(1, &[KeyValue::new("kind", kind)]);
    }

    /// A handshake ended; `reason` is empty when it succeeded.
    pub fn handshake(&self, reason: &'static str) {
        let result = if reason.is_empty() { "ok" } else { "failed" };
        self.handshakes
            .add(1, &[KeyValue::new("result", result), KeyValue::new("reason", reason)]);
    }
}
