//! Traces: one span for each request, joined to its caller's, sent to an
//! OpenTelemetry collector by OTLP (docs/tracing.md).
//!
//! Invariants: nothing here waits but the task that sends, and what waits for
//! that task is bounded in number and in size; what the next hop is told is
//! valid whatever the caller said; no environment variable is read. It does
//! not know who calls whom by what right: that comes as text.

mod export;
mod parent;
mod queue;
mod request;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::metrics::Meter;
use opentelemetry::trace::{Span as _, TracerProvider as _};
use opentelemetry::trace::{
    SpanBuilder, SpanContext, SpanKind, TraceContextExt as _, TraceFlags, TraceState, Tracer as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanLimits};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::Clock;
use export::Exporter;
use parent::Parent;
use queue::Queue;
pub use request::{Asked, RequestSpan, TraceId};

/// For what waits to be sent when a daemon ends.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// What spans are made and sent with.
pub struct TraceSettings {
    /// `service.name`: the program.
    pub service: &'static str,
    /// `service.instance.id`: which of several processes this is.
    pub instance: String,
    /// The share of traces that begin here and are recorded, 0 to 1. Those
    /// that a caller began are recorded if it records them.
    pub sample_ratio: f64,
    /// Tells when spans begin and end.
    pub clock: Arc<dyn Clock>,
    /// Counts the spans that were dropped.
    pub meter: Meter,
}

/// Where finished spans go. Clones share one state.
#[derive(Clone)]
pub struct Traces {
    on: Option<Arc<On>>,
}

struct On {
    tracer: SdkTracer,
    clock: Arc<dyn Clock>,
    flushes: mpsc::Sender<oneshot::Sender<()>>,
}

impl Traces {
    /// No spans, and headers pass unchanged.
    pub fn off() -> Self {
        Self { on: None }
    }

    /// Sends spans over `channel`, as a task of the runtime that this is called
    /// in. `channel` should connect when it is needed: the collector may come
    /// and go.
    pub fn otlp(settings: TraceSettings, channel: Channel) -> Self {
        let TraceSettings { service, instance, .. } = settings;
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", service),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", instance),
            ])
            .build();
        let dropped = settings
            .meter
            .u64_counter("watchword_spans_dropped")
            .with_description("Spans that were recorded and did not reach the collector, by why.")
            .build();
        let queue = Arc::new(Queue::new(dropped.clone()));
        let (flushes, asked_to_flush) = mpsc::channel(1);
        let exporter = Exporter::new(Arc::clone(&queue), channel, &resource, dropped);
        tokio::spawn(exporter.run(asked_to_flush));
        // All that would otherwise come from the environment is set here.
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
                settings.sample_ratio,
            ))))
            .with_span_limits(SpanLimits::default())
            .with_resource(resource)
            .with_span_processor(queue::Processor(queue))
            .build();
        let scope = InstrumentationScope::builder("watchword")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Self {
            on: Some(Arc::new(On {
                tracer: provider.tracer_with_scope(scope),
                clock: settings.clock,
                flushes,
            })),
        }
    }

    /// Begins the span of a request that came with these headers.
    pub fn begin(&self, asked: &Asked<'_>, headers: &HeaderMap) -> RequestSpan {
        let parent = parent::read(headers);
        match &self.on {
            None => RequestSpan::off(parent.map(|parent| parent.trace_id)),
            Some(on) => on.begin(asked, parent, headers),
        }
    }

    /// Sends what waits. Comes back after two seconds at the latest.
    pub async fn flush(&self) {
        let Some(on) = &self.on else { return };
        let (done, flushed) = oneshot::channel();
        let flush = async {
            if on.flushes.send(done).await.is_ok() {
                let _ = flushed.await;
            }
        };
        if timeout(FLUSH_DEADLINE, flush).await.is_err() {
            tracing::warn!("the collector did not take the last spans in time");
        }
    }
}

impl On {
    fn begin(&self, asked: &Asked<'_>, parent: Option<Parent>, headers: &HeaderMap) -> RequestSpan {
        let joined = parent.is_some();
        let context = match parent {
            None => Context::new(),
            Some(parent) => {
                // What is not recorded needs no copy of the caller's state.
                let (flags, state) = if parent.sampled {
                    (TraceFlags::SAMPLED, parent::state(headers))
                } else {
                    (TraceFlags::NOT_SAMPLED, TraceState::NONE)
                };
                Context::new().with_remote_span_context(SpanContext::new(
                    parent.trace_id,
                    parent.span_id,
                    flags,
                    true,
                    state,
                ))
            }
        };
        let builder = SpanBuilder::from_name(asked.name())
            .with_kind(SpanKind::Server)
            .with_start_time(self.clock.now());
        let mut span = self.tracer.build_with_context(builder, &context);
        if span.is_recording() {
            span.set_attributes(asked.attributes());
            RequestSpan::recording(span, joined, Arc::clone(&self.clock))
        } else {
            let context = span.span_context();
            RequestSpan::not_recorded(context.trace_id(), context.span_id(), joined)
        }
    }
}

#[cfg(test)]
mod tests;
