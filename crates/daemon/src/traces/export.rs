//! The task that sends spans to the collector.
//!
//! Invariants: one call at a time, each with a deadline; after a failure a
//! pause that grows; no batch is tried for ever. What it says in the log comes
//! once a minute at most.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::queue::Queue;
use crate::{Trouble, explain};

/// For a batch to be taken.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// After a first failure, and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Of one batch: what a collector never takes must not keep the rest from it.
const MAX_TRIES: u32 = 5;
/// Between two times that the same trouble is told.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Who is told when everything was sent.
type Flush = oneshot::Sender<()>;

/// Sends spans, batch by batch.
pub(super) struct Exporter {
    queue: Arc<Queue>,
    client: TraceServiceClient<Channel>,
    resource: ResourceAttributesWithSchema,
    dropped: Counter<u64>,
    trouble: Trouble,
    /// Before the next call, since the last one failed.
    pause: Option<Duration>,
    /// What that one did not get rid of.
    unsent: Option<Batch>,
}

/// A batch on its way.
struct Batch {
    request: ExportTraceServiceRequest,
    spans: u64,
    tries: u32,
}

impl Exporter {
    pub(super) fn new(queue: Arc<Queue>, channel: Channel, resource: &Resource, dropped: Counter<u64>) -> Self {
        Self {
            queue,
            client: TraceServiceClient::new(channel),
            resource: resource.into(),
            dropped,
            trouble: Trouble::every(SAY_AGAIN),
            pause: None,
            unsent: None,
        }
    }

    /// Sends for as long as somebody may ask for a flush.
    pub(super) async fn run(mut self, mut flushes: mpsc::Receiver<Flush>) {
        loop {
            let flush = tokio::select! {
                () = self.due() => None,
                flush = flushes.recv() => match flush {
                    Some(flush) => Some(flush),
                    None => return,
                },
            };
            while self.send_next().await && flush.is_some() {}
            if let Some(flush) = flush {
                // Whoever asked may have waited long enough.
                let _ = flush.send(());
            }
        }
    }

    /// Waits until it is time to send, for the first time or again.
    async fn due(&self) {
        if let Some(pause) = self.pause {
            // Not all sidecars of a machine at once.
            sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
        }
        if self.unsent.is_none() {
            self.queue.ready().await;
        }
    }

    /// Sends a batch. Whether it makes sense to go on at once.
    async fn send_next(&mut self) -> bool {
        let Some(mut batch) = self.unsent.take().or_else(|| self.next()) else {
            return false;
        };
        let call = self.client.export(batch.request.clone());
        let failure = match timeout(CALL_DEADLINE, call).await {
            Ok(Ok(answer)) => {
                self.pause = None;
                let rejected = answer.into_inner().partial_success.unwrap_or_default();
                let count = u64::try_from(rejected.rejected_spans).unwrap_or_default();
                self.give_up(count.min(batch.spans), "rejected", &rejected.error_message);
                return true;
            }
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no answer in time"),
        };
        self.pause = Some(self.pause.map_or(PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE)));
        batch.tries += 1;
        let problem = explain(&failure);
        if !may_be_sent_again(failure.code()) {
            self.give_up(batch.spans, "rejected", &problem);
        } else if batch.tries >= MAX_TRIES {
            self.give_up(batch.spans, "not-taken", &problem);
        } else {
            self.unsent = Some(batch);
            if let Some(times) = self.trouble.note() {
                tracing::warn!(%problem, times, "the collector does not take spans: tried again later");
            }
        }
        false
    }

    fn next(&self) -> Option<Batch> {
        let spans = self.queue.take();
        (!spans.is_empty()).then(|| Batch {
            spans: spans.len() as u64,
            request: ExportTraceServiceRequest {
                resource_spans: group_spans_by_resource_and_scope(spans, &self.resource),
            },
            tries: 0,
        })
    }

    fn give_up(&mut self, spans: u64, reason: &'static str, problem: &str) {
        if spans == 0 {
            return;
        }
        self.dropped.add(spans, &[KeyValue::new("reason", reason)]);
        if let Some(times) = self.trouble.note() {
            tracing::warn!(%problem, spans, reason, times, "spans dropped: the collector does not take them");
        }
    }
}

/// As the protocol has it (OTLP, "Failures"), but for an overloaded collector
/// that does not say when to come back: it is asked again, too.
fn may_be_sent_again(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            // tonic's word for a connection that broke.
            | Code::Unknown
    )
}
