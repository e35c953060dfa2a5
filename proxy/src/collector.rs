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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http::{HeaderMap, Method, StatusCode};
    use watchword_daemon::{Asked, Metrics, SystemClock};
    use watchword_tests::Collector;

    use super::*;

    #[tokio::test]
    async fn spans_arrive_at_the_socket_that_the_configuration_names() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("otel.sock");
        let collector = Collector::start(&socket).unwrap();
        let config = Tracing {
            address: Address::Unix(socket),
            sample_ratio: 1.0,
        };
        let others = (Metrics::new().unwrap().meter(), "host/1".to_owned());
        let traces = traces(Some(&config), Dialler::without_trial(), Arc::new(SystemClock), others);
        let asked = Asked {
            method: &Method::GET,
            path: "/",
            port: 80,
            from: [10, 0, 0, 9].into(),
            client: "spiffe://example.org/web",
            server: "spiffe://example.org/orders",
        };
        traces.begin(&asked, &HeaderMap::new()).end(StatusCode::OK);
        traces.flush().await;
        let spans = collector.spans();
        assert_eq!(spans.len(), 1);
        assert_eq!(spans[0].resource["service.name"], "watchword-proxy");
        assert_eq!(spans[0].resource["service.instance.id"], "host/1");
    }
}
