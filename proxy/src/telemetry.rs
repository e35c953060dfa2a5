//! The sidecar's instruments (docs/metrics.md). Label sets are closed, and
//! the number of peers that have a label of their own is bounded.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, StatusCode};
use opentelemetry::metrics::{AsyncInstrument, Counter, Gauge, Histogram, Meter, UpDownCounter};
use opentelemetry::{KeyValue, Value};
use watchword_mtls::Credentials;

use crate::connection::Direction;
use crate::control::freshness::Freshness;
use crate::tally::{Labels, Tally};

/// More peers than this share the label `other`.
const MAX_PEERS: usize = 500;

/// Handed to whoever counts. Clones share the instruments.
#[derive(Clone)]
pub(crate) struct Telemetry {
    connections: Arc<Tally<Ended>>,
    often: Arc<Often>,
    handshakes: Counter<u64>,
    handshake_duration: Histogram<f64>,
    tunnels: UpDownCounter<i64>,
    violations: Counter<u64>,
    decisions: Arc<Tally<Decided>>,
    renewals: Counter<u64>,
    expiry: Gauge<u64>,
    generation: Gauge<u64>,
    snapshots: Counter<u64>,
    accept_pauses: Counter<u64>,
    requests: Counter<u64>,
    request_duration: Histogram<f64>,
    workload_certificates: Counter<u64>,
    workload_streams: UpDownCounter<i64>,
    sds_rejections: Counter<u64>,
    peers: Arc<Mutex<HashSet<Arc<str>>>>,
}

/// What every connection counts, and few labels tell apart: an instrument looks
/// its labels up each time, which costs more than the count.
#[derive(Default)]
struct Often {
    inbound: Flow,
    outbound: Flow,
    streams: AtomicU64,
}

/// The connections of a direction.
#[derive(Default)]
struct Flow {
    active: AtomicI64,
    bytes: AtomicU64,
}

impl Often {
    fn of(&self, direction: Direction) -> &Flow {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    /// Has the instruments ask for them whenever somebody reads the metrics.
    fn show(self: &Arc<Self>, meter: &Meter) {
        meter
            .i64_observable_up_down_counter("watchword_connections_active")
            .with_description("Connections that are open.")
            .with_callback(self.by_direction(|flow| flow.active.load(Ordering::Relaxed)))
            .build();
        meter
            .u64_observable_counter("watchword_bytes")
            .with_description("Bytes of the app that were carried.")
            .with_callback(self.by_direction(|flow| flow.bytes.load(Ordering::Relaxed)))
            .build();
        let this = Arc::clone(self);
        meter
            .u64_observable_counter("watchword_tunnel_streams")
            .with_description("Streams that were opened.")
            .with_callback(move |counter| counter.observe(this.streams.load(Ordering::Relaxed), &[]))
            .build();
    }

    fn by_direction<V>(self: &Arc<Self>, value: fn(&Flow) -> V) -> impl Fn(&dyn AsyncInstrument<V>) + use<V> {
        let this = Arc::clone(self);
        move |instrument| {
            for direction in [Direction::Inbound, Direction::Outbound] {
                let label = [KeyValue::new("direction", direction.label())];
                instrument.observe(value(this.of(direction)), &label);
            }
        }
    }
}

/// How a connection ended.
#[derive(PartialEq, Eq, Hash)]
struct Ended {
    direction: &'static str,
    peer: Arc<str>,
    result: &'static str,
    reason: &'static str,
}

impl Labels for Ended {
    fn labels(&self) -> Vec<KeyValue> {
        vec![
            KeyValue::new("direction", self.direction),
            KeyValue::new("peer", Arc::clone(&self.peer)),
            KeyValue::new("result", self.result),
            KeyValue::new("reason", self.reason),
        ]
    }
}

/// What a policy said, and which of its rules.
#[derive(PartialEq, Eq, Hash)]
struct Decided {
    policy: Option<Arc<str>>,
    rule: Option<Arc<str>>,
    decision: &'static str,
}

impl Labels for Decided {
    fn labels(&self) -> Vec<KeyValue> {
        let text = |name: &Option<Arc<str>>| name.as_ref().map_or(Value::from(""), |name| Arc::clone(name).into());
        vec![
            KeyValue::new("policy", text(&self.policy)),
            KeyValue::new("rule", text(&self.rule)),
            KeyValue::new("decision", self.decision),
        ]
    }
}

/// Counts as open, under its labels, until it is dropped.
pub(crate) struct Active<const LABELS: usize>(UpDownCounter<i64>, [KeyValue; LABELS]);

impl<const LABELS: usize> Active<LABELS> {
    fn begin(level: &UpDownCounter<i64>, labels: [KeyValue; LABELS]) -> Self {
        level.add(1, &labels);
        Self(level.clone(), labels)
    }
}

impl<const LABELS: usize> Drop for Active<LABELS> {
    fn drop(&mut self) {
        self.0.add(-1, &self.1);
    }
}

/// An open tunnel.
pub(crate) type ActiveTunnel = Active<0>;
/// An open stream of the workload socket.
pub(crate) type ActiveStream = Active<1>;

impl Telemetry {
    pub(crate) fn new(meter: &Meter) -> Self {
        let counter = |name, says| meter.u64_counter(name).with_description(says).build();
        let level = |name, says| meter.i64_up_down_counter(name).with_description(says).build();
        let often = Arc::new(Often::default());
        often.show(meter);
        Self {
            often,
            connections: Tally::shown(meter, "watchword_connections", "Connections that ended, by how."),
            handshakes: counter("watchword_tunnel_handshakes", "Handshakes of tunnels, by result."),
            handshake_duration: meter
                .f64_histogram("watchword_handshake_duration")
                .with_unit("s")
                .with_boundaries(vec![0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0])
                .with_description("Time of a tunnel's handshake.")
                .build(),
            tunnels: level(
                "watchword_tunnels_active",
                "Tunnels that are open, with a stream or idle.",
            ),
            violations: counter(
                "watchword_tunnel_violations",
                "Tunnels that were closed because the other side broke watchword/1.",
            ),
            decisions: Tally::shown(
                meter,
                "watchword_policy_decisions",
                "Decisions of policies, with the rule that made them.",
            ),
            renewals: counter("watchword_certificate_renewals", "Certificates asked for, by result."),
            expiry: meter
                .u64_gauge("watchword_certificate_expiry_timestamp")
                .with_unit("s")
                .with_description("When the current certificate ends, Unix time.")
                .build(),
            generation: meter
                .u64_gauge("watchword_identity_generation")
                .with_description("Grows with each new certificate or bundle.")
                .build(),
            snapshots: counter("watchword_snapshots", "Snapshots received, by result."),
            accept_pauses: counter(
                "watchword_accept_pauses",
                "Times that new connections had to wait, mostly for descriptors.",
            ),
            requests: counter("watchword_http_requests", "Requests that ended, by status."),
            request_duration: meter
                .f64_histogram("watchword_http_request_duration")
                .with_unit("s")
                .with_boundaries(vec![0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0])
                .with_description("Time from a request's head to the end of its answer.")
                .build(),
            workload_certificates: counter(
                "watchword_workload_certificates",
                "Certificates asked for on behalf of callers of the workload socket, by result.",
            ),
            workload_streams: level(
                "watchword_workload_streams_active",
                "Streams of the workload socket that are open, by API.",
            ),
            sds_rejections: counter("watchword_sds_rejections", "Secrets that an SDS client rejected."),
            peers: Arc::default(),
        }
    }

    pub(crate) fn workload_issued(&self, result: &'static str) {
        self.workload_certificates.add(1, &[KeyValue::new("result", result)]);
    }

    /// One more stream of the workload socket, until what this returns is dropped.
    pub(crate) fn workload_stream(&self, api: &'static str) -> ActiveStream {
        Active::begin(&self.workload_streams, [KeyValue::new("api", api)])
    }

    pub(crate) fn sds_rejected(&self) {
        self.sds_rejections.add(1, &[]);
    }

    pub(crate) fn connection_opened(&self, direction: Direction) {
        self.often.of(direction).active.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connection_forgotten(&self, direction: Direction) {
        self.often.of(direction).active.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn connection_closed(
        &self,
        direction: Direction,
        peer: &Arc<str>,
        result: &'static str,
        reason: &'static str,
    ) {
        self.connection_forgotten(direction);
        let ended = Ended {
            direction: direction.label(),
            peer: Arc::clone(peer),
            result,
            reason,
        };
        self.connections.count(ended, |new| Ended {
            peer: self.peer_label(peer),
            ..new
        });
    }

    pub(crate) fn carried(&self, direction: Direction, bytes: u64) {
        self.often.of(direction).bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Without a status: it was cut, or broken off, before it was answered.
    /// `peer` is a [`Self::peer_label`].
    pub(crate) fn request_ended(&self, peer: &Arc<str>, method: &Method, status: Option<StatusCode>, took: Duration) {
        let status = status.map_or(Value::from(""), |status| i64::from(status.as_u16()).into());
        let labels = [
            KeyValue::new("direction", "inbound"),
            KeyValue::new("peer", Arc::clone(peer)),
            KeyValue::new("method", method_label(method)),
            KeyValue::new("status", status),
        ];
        self.requests.add(1, &labels);
        self.request_duration.record(took.as_secs_f64(), &[]);
    }

    pub(crate) fn handshake(&self, result: Result<(), &'static str>, took: Duration) {
        let labels = match result {
            Ok(()) => [KeyValue::new("result", "ok"), KeyValue::new("reason", "")],
            Err(reason) => [KeyValue::new("result", "failed"), KeyValue::new("reason", reason)],
        };
        self.handshakes.add(1, &labels);
        self.handshake_duration.record(took.as_secs_f64(), &[]);
    }

    /// One more tunnel, until what this returns is dropped.
    pub(crate) fn active_tunnel(&self) -> ActiveTunnel {
        Active::begin(&self.tunnels, [])
    }

    pub(crate) fn stream_opened(&self) {
        self.often.streams.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn tunnel_violated(&self, reason: &'static str) {
        self.violations.add(1, &[KeyValue::new("reason", reason)]);
    }

    pub(crate) fn decided(&self, policy: Option<&Arc<str>>, rule: Option<&Arc<str>>, decision: &'static str) {
        let decided = Decided {
            policy: policy.cloned(),
            rule: rule.cloned(),
            decision,
        };
        self.decisions.count(decided, |new| new);
    }

    pub(crate) fn renewed(&self, result: &'static str) {
        self.renewals.add(1, &[KeyValue::new("result", result)]);
    }

    pub(crate) fn identity(&self, generation: u64, not_after: SystemTime) {
        self.generation.record(generation, &[]);
        self.expiry
            .record(not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(), &[]);
    }

    pub(crate) fn snapshot(&self, kind: &'static str, result: &'static str) {
        self.snapshots
            .add(1, &[KeyValue::new("kind", kind), KeyValue::new("result", result)]);
    }

    pub(crate) fn accept_paused(&self) {
        self.accept_pauses.add(1, &[]);
    }

    /// What stands for a peer: its ID, while there are not too many.
    pub(crate) fn peer_label(&self, peer: &Arc<str>) -> Arc<str> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = peers.get(peer) {
            return Arc::clone(known);
        }
        if peers.len() >= MAX_PEERS {
            return "other".into();
        }
        peers.insert(Arc::clone(peer));
        Arc::clone(peer)
    }
}

/// What is asked of its owners whenever somebody reads the metrics.
pub(crate) fn observe(meter: &Meter, credentials: Credentials, freshness: Freshness) {
    let mine = credentials.clone();
    meter
        .u64_observable_gauge("watchword_bundle_expiry_timestamp")
        .with_unit("s")
        .with_description("When the last root of a trust domain ends, Unix time.")
        .with_callback(move |gauge| {
            let Some(current) = mine.current() else { return };
            for (domain, _) in current.bundle().iter() {
                let ends = current.bundle().not_after(domain).unwrap_or(UNIX_EPOCH);
                let labels = [KeyValue::new("trust_domain", domain.to_string())];
                gauge.observe(ends.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(), &labels);
            }
        })
        .build();
    meter
        .f64_observable_gauge("watchword_snapshot_age")
        .with_unit("s")
        .with_description("For how long a snapshot may be out of date; 0 while the control plane's stream stands.")
        .with_callback(move |gauge| {
            for (kind, age) in freshness.ages(credentials.now()) {
                gauge.observe(age.as_secs_f64(), &[KeyValue::new("kind", kind)]);
            }
        })
        .build();
}

/// Closed, although callers may make up methods.
fn method_label(method: &Method) -> &'static str {
    let known = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT",
    ];
    known
        .into_iter()
        .find(|known| method.as_str() == *known)
        .unwrap_or("other")
}
