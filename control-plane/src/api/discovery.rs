//! The Discovery service: one task per stream moves messages between the
//! caller and its `crate::subscription`.
//!
//! Invariants: a stream ends when the SVID that it was made with does. What
//! is queued for a caller is bounded by what it has not answered.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use watchword_daemon::{Shutdown, sleep_until};
use watchword_identity::Svid;
use watchword_proto::control::subscribe_request::Message;
use watchword_proto::control::{Discovery, Hello, SnapshotUpdate, SubscribeRequest};

use super::status::{authenticated, refusal_status, status};
use crate::enrolment::Enrolment;
use crate::snapshots::{Kind, Snapshots};
use crate::subscribers::{Subscriber, SubscriberGuard, Subscribers};
use crate::subscription::Subscription;

const HELLO_DEADLINE: Duration = Duration::from_secs(10);
const MAX_INSTANCE: usize = 128;
/// One update of each kind that waits for its answer, and the last word.
const QUEUE: usize = Kind::ALL.len() + 1;

/// Pushes snapshots over gRPC.
#[derive(Debug, Clone)]
pub struct DiscoveryApi {
    /// Knows whose SVID is in use.
    pub enrolment: Arc<Enrolment>,
    /// What is told.
    pub snapshots: Snapshots,
    /// Who is told.
    pub subscribers: Subscribers,
    /// Goes with each update.
    pub epoch: u64,
    /// Ends all streams.
    pub shutdown: Shutdown,
}

struct Stream {
    api: DiscoveryApi,
    svid: Svid,
    requests: Streaming<SubscribeRequest>,
    updates: mpsc::Sender<Result<SnapshotUpdate, Status>>,
}

#[tonic::async_trait]
impl Discovery for DiscoveryApi {
    type SubscribeStream = ReceiverStream<Result<SnapshotUpdate, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let svid = authenticated(&request, self.enrolment.clock.as_ref())?;
        self.enrolment
            .admit(&svid)
            .await
            .map_err(|refusal| refusal_status(&refusal))?;
        let (updates, outgoing) = mpsc::channel(QUEUE);
        let stream = Stream {
            api: self.clone(),
            svid,
            requests: request.into_inner(),
            updates,
        };
        tokio::spawn(stream.run());
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

impl Stream {
    async fn run(mut self) {
        let id = self.svid.id().to_string();
        match self.serve().await {
            Ok(()) => tracing::info!(id, "a proxy has left"),
            Err(end) => {
                tracing::info!(id, reason = end.message(), "a proxy's stream is ended");
                // The queue has a place for it, unless the caller is gone.
                let _ = self.updates.try_send(Err(end));
            }
        }
    }

    async fn serve(&mut self) -> Result<(), Status> {
        let Some(hello) = self.hello().await? else {
            return Ok(());
        };
        let id = self.svid.id().to_string();
        tracing::info!(
            id,
            instance = hello.instance,
            policy_schema = hello.policy_schema,
            "a proxy has come"
        );
        let mut subscription = Subscription::new(self.svid.id().clone(), self.api.epoch);
        let entry = Subscriber {
            id,
            instance: hello.instance,
            progress: subscription.progress(),
        };
        let guard = self.api.subscribers.enter(entry).ok_or_else(|| {
            status(
                Code::ResourceExhausted,
                "limit",
                "too many proxies are connected: try again later",
            )
        })?;
        self.exchange(&mut subscription, &guard).await
    }

    async fn hello(&mut self) -> Result<Option<Hello>, Status> {
        let first = timeout(HELLO_DEADLINE, self.requests.message())
            .await
            .map_err(|_| status(Code::DeadlineExceeded, "no-hello", "no Hello came within 10 s"))??;
        match first.map(|request| request.message) {
            None => Ok(None),
            Some(Some(Message::Hello(hello))) if hello.instance.len() <= MAX_INSTANCE => Ok(Some(hello)),
            Some(Some(Message::Hello(_))) => Err(status(
                Code::InvalidArgument,
                "instance-too-long",
                "an instance's name has 128 bytes at most",
            )),
            Some(_) => Err(status(
                Code::InvalidArgument,
                "no-hello",
                "the first message of a stream is Hello",
            )),
        }
    }

    /// Until the caller leaves.
    async fn exchange(&mut self, subscription: &mut Subscription, guard: &SubscriberGuard) -> Result<(), Status> {
        let clock = Arc::clone(&self.api.enrolment.clock);
        let mut expired = std::pin::pin!(sleep_until(&clock, self.svid.not_after()));
        let shutdown = self.api.shutdown.clone();
        let mut stop = std::pin::pin!(shutdown.requested());
        let mut views = self.api.snapshots.subscribe();
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            for update in subscription.updates(&view) {
                // Only a caller that is gone has no place left.
                if self.updates.try_send(Ok(update)).is_err() {
                    return Ok(());
                }
            }
            guard.note(subscription.progress());
            tokio::select! {
                request = self.requests.message() => match request? {
                    Some(request) => self.answered(subscription, request)?,
                    None => return Ok(()),
                },
                // The sender lives as long as the API does.
                _ = views.changed() => {}
                () = &mut expired => {
                    let message = "the SVID that this stream was made with has expired: connect with a newer one";
                    return Err(status(Code::Unauthenticated, "expired", message));
                }
                () = &mut stop => {
                    return Err(status(Code::Unavailable, "shutdown", "the control plane is stopping: connect again"));
                }
                () = self.updates.closed() => return Ok(()),
            }
        }
    }

    fn answered(&self, subscription: &mut Subscription, request: SubscribeRequest) -> Result<(), Status> {
        let answer = match request.message {
            Some(Message::Ack(ack)) => subscription.acknowledge(&ack).map(|_| ()),
            Some(Message::Nack(nack)) => {
                let reason = nack.reason.chars().take(512).collect::<String>();
                subscription.reject(nack).map(|kind| {
                    let id = self.svid.id().to_string();
                    tracing::warn!(id, kind = kind.label(), reason, "a proxy refuses a snapshot");
                    self.api.enrolment.metrics.snapshot_rejected(kind.label());
                })
            }
            Some(Message::Hello(_)) | None => {
                return Err(status(
                    Code::InvalidArgument,
                    "unexpected-message",
                    "after Hello only Ack and Nack come",
                ));
            }
        };
        answer.map_err(|error| status(Code::InvalidArgument, "unknown-nonce", error.to_string()))
    }
}
