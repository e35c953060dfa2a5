//! The way of spans to the collector that the configuration names: OTLP by
//! gRPC, in plaintext (docs/decisions/0012-traces-in-plaintext-on-the-machine.md).

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use opentelemetry::metrics::Meter;
use tonic::transport::{Channel, Endpoint, Uri};
use watchword_daemon::{Clock, TraceSettings, Traces};

use crate::address::Address;
use crate::config::Tracing;
use crate::dial::Dialler;

/// A collector that is silent during a call is left after two of these, and
/// dialled anew. Between calls it is not asked: collectors take offence.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Where spans go, which is nowhere unless somebody says so. `instance` tells
/// this process from others.
pub(crate) fn traces(
    config: Option<&Tracing>,
    dialler: Dialler,
    clock: Arc<dyn Clock>,
    (meter, instance): (Meter, String),
) -> Traces {
    let Some(config) = config else {
        return Traces::off();
    };
    let settings = TraceSettings {
        service: "watchword-proxy",
        instance,
        sample_ratio: config.sample_ratio,
        clock,
        meter,
    };
    tracing::info!(
        collector = %config.address, sample_ratio = config.sample_ratio,
        "requests are traced: spans go to the collector in plaintext"
    );
    Traces::otlp(settings, channel(config.address.clone(), dialler))
}

/// Connects when there is something to send.
fn channel(address: Address, dialler: Dialler) -> Channel {
    let address = Arc::new(address);
    let connector = tower::service_fn(move |_: Uri| {
        let address = Arc::clone(&address);
        async move { address.dial(&dialler).await.map(TokioIo::new) }
    });
    // The address is the connector's business; this only fills :authority.
    Endpoint::from_static("http://collector")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .connect_with_connector_lazy(connector)
}
