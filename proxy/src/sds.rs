//! Envoy's Secret Discovery Service, v3: certificates and trust bundles for an
//! Envoy, or another xDS client, beside us.
//!
//! Invariants: versions and nonces are per stream, since Envoy opens one for
//! each secret; what a client has rejected is not sent to it again before it
//! has changed.

mod answers;
mod delta;
mod names;
mod protocol;
mod refusal;
mod whole;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use watchword_proto::sds::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, SecretDiscoveryService,
};

use self::answers::Said;
use self::delta::Delta;
use self::protocol::Protocol;
use self::whole::Whole;
use crate::workload_calls::{Connection, subscribe};
use crate::workloads::{Subscription, Workloads};

/// The service.
#[derive(Clone)]
pub(crate) struct Sds {
    pub(crate) workloads: Workloads,
}

type Responses<T> = ReceiverStream<Result<T, Status>>;

impl Sds {
    fn begin<P: Protocol>(&self, request: Request<Streaming<P::Request>>) -> Result<Responses<P::Response>, Status> {
        let subscription = subscribe(&self.workloads, &request)?;
        let uid = request.extensions().get::<Connection>().map(|caller| caller.caller.uid);
        let (sender, receiver) = mpsc::channel(1);
        let telemetry = self.workloads.telemetry().clone();
        let requests = request.into_inner();
        tokio::spawn(async move {
            let _counted = telemetry.workload_stream("sds");
            let note = |reason: &str, is_news: bool| {
                telemetry.sds_rejected();
                if is_news {
                    tracing::warn!(
                        ?uid,
                        reason,
                        "an SDS client rejected its secrets; they are not sent again"
                    );
                }
            };
            let ended = serve(P::default(), requests, subscription, (&sender, note)).await;
            if let Err(status) = ended {
                tracing::info!(?uid, reason = status.message(), "an SDS stream ended");
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(ReceiverStream::new(receiver))
    }
}

/// Until the client ends it, or has no identity any more.
async fn serve<P: Protocol>(
    mut stream: P,
    mut requests: Streaming<P::Request>,
    mut subscription: Subscription,
    (responses, note): (&mpsc::Sender<Result<P::Response, Status>>, impl Fn(&str, bool)),
) -> Result<(), Status> {
    let mut material = None;
    loop {
        tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => match stream.request(request)? {
                    Said::Rejected { reason, is_news } => note(&reason, is_news),
                    Said::Fine | Said::Stale => {}
                },
                // What it asked for is still to be told, as to a client that
                // sends its only request and half-closes.
                Ok(None) if material.is_none() => material = Some(subscription.next().await?),
                Ok(None) | Err(_) => return Ok(()),
            },
            newest = subscription.next() => material = Some(newest?),
            () = responses.closed() => return Ok(()),
        }
        if let Some(material) = &material
            && let Some(response) = stream.respond(material)?
            && responses.send(Ok(response)).await.is_err()
        {
            return Ok(());
        }
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type StreamSecretsStream = Responses<DiscoveryResponse>;
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        self.begin::<Whole>(request).map(Response::new)
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        self.begin::<Delta>(request).map(Response::new)
    }

    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        let mut subscription = subscribe(&self.workloads, &request)?;
        let material = subscription.next().await?;
        Ok(Response::new(whole::once(request.into_inner(), &material)?))
    }
}
