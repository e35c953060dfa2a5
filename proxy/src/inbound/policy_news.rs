//! Whether what was let in may go on: asked anew each time that policies change.
//!
//! A tunnel has one for all of its streams, since to wait for changes costs as
//! much as to judge a short stream.

use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::watch::Receiver;
use watchword_proto::tunnel::Reason;

use crate::enforce::Question;
use crate::on_wake::OnWake;

/// No change is missed from [`of`](Self::of) on, whether anybody waits or not.
pub(super) struct PolicyNews(OnWake<NextChange>);

type NextChange = Pin<Box<dyn Future<Output = Receiver<u64>> + Send>>;

impl PolicyNews {
    /// See [`Snapshots::policy_changes`](crate::snapshots::Snapshots::policy_changes).
    pub(super) fn of(mut changes: Receiver<u64>) -> Self {
        Self(OnWake::new(Box::pin(async move {
            if changes.changed().await.is_err() {
                pending::<()>().await;
            }
            changes
        })))
    }

    /// Resolves when policies have changed so that this would be denied, which was
    /// let in no earlier than this was made.
    pub(super) fn cut_when_denied<'a>(
        &'a mut self,
        question: &'a Question,
    ) -> impl Future<Output = Reason> + Unpin + use<'a> {
        poll_fn(|cx| {
            while self.poll_change(cx).is_ready() {
                if question.is_denied() {
                    return Poll::Ready(Reason::PolicyChanged);
                }
            }
            Poll::Pending
        })
    }

    fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(|changes| *self = Self::of(changes))
    }
}
