//! Metrics: OpenTelemetry instruments, read in Prometheus' text format.

use std::sync::Arc;

use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Encoder, Registry, TextEncoder};
use thiserror::Error;

/// Why metrics can't be had.
#[derive(Debug, Error)]
pub enum MetricsError {
    /// The exporter refused its registry.
    #[error("metrics can't be set up: {0}")]
    SetUp(String),
    /// A metric can't be written.
    #[error("metrics can't be written: {0}")]
    Encode(#[from] prometheus::Error),
}

/// The process's instruments. Clones share one registry.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    provider: Arc<SdkMeterProvider>,
}

impl Metrics {
    /// With no instrument yet.
    ///
    /// # Errors
    /// When the exporter can't be made.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .map_err(|error| MetricsError::SetUp(error.to_string()))?;
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        Ok(Self {
            registry,
            provider: Arc::new(provider),
        })
    }

    /// Makes instruments. Names start with `watchword_`; the exporter adds the
    /// unit and, to counters, `_total`.
    pub fn meter(&self) -> Meter {
        self.provider.meter("watchword")
    }

    /// Everything in Prometheus' text format.
    ///
    /// # Errors
    /// When a metric can't be written.
    pub fn render(&self) -> Result<String, MetricsError> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use opentelemetry::KeyValue;

    use super::*;

    #[test]
    fn a_counter_is_shown_with_its_labels() {
        let metrics = Metrics::new().unwrap();
        let counter = metrics.meter().u64_counter("watchword_connections").build();
        counter.add(3, &[KeyValue::new("direction", "inbound")]);
        let text = metrics.render().unwrap();
        assert!(
            text.contains("watchword_connections_total{direction=\"inbound\"} 3"),
            "{text}"
        );
    }
}
