//! What the policies of the moment say of a call, of a request, and of what
//! goes on while they change.

use std::sync::Arc;

use tokio::sync::watch::Receiver;
use watchword_policy::{Call, Decision, Gate, PolicySet, Protocol};
use watchword_proto::tunnel::Reason;

use crate::ended::Verdict;
use crate::facts::Facts;
use crate::refusal::{Refusal, Why};
use crate::visitor::Visitor;

/// One call, as policies see it.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) visitor: Arc<Visitor>,
    pub(crate) protocol: Protocol,
}

/// A connection that policies let in.
#[derive(Clone, Debug)]
pub(crate) enum Admission {
    /// As a whole.
    Whole(Decision),
    /// Its requests are judged one by one; whether any could pass.
    Requests {
        /// Otherwise the app need not be dialled.
        some_may_pass: bool,
    },
}

impl Question {
    /// Asks the policies of this moment about the connection, and counts what
    /// they say of it. Without any yet, nobody may call.
    pub(crate) fn admit(&self) -> Result<Admission, Refusal> {
        let policies = self.policies()?;
        if self.protocol == Protocol::Tcp {
            let decision = self.counted(policies.decide(&self.call()))?;
            if let Some(denial) = &decision.would_deny {
                self.visitor
                    .note_denial(denial.reason.as_str(), &Verdict::of(&decision), (None, true));
            }
            return Ok(Admission::Whole(decision));
        }
        match policies.gate(&self.call()) {
            Gate::Closed(decision) => self.counted(decision).map(Admission::Whole),
            Gate::Open => Ok(Admission::Requests { some_may_pass: true }),
            Gate::Futile(_) => Ok(Admission::Requests { some_may_pass: false }),
        }
    }

    /// The same about one request on it.
    pub(crate) fn decide(&self, facts: &Facts) -> Result<Decision, Refusal> {
        let policies = self.policies()?;
        self.counted(policies.decide_request(&self.call(), &facts.as_request()))
    }

    /// Whether the connection would not be let in now, or have to end; nobody counts
    /// it.
    pub(crate) fn is_denied(&self) -> bool {
        self.policies()
            .map_or(true, |policies| self.denial_by(&policies).is_some())
    }

    /// Resolves when policies have changed so that this connection would be
    /// denied.
    pub(crate) async fn cut_when_denied(&self, changes: Receiver<u64>) -> Reason {
        self.denied_later(changes, |policies| self.denial_by(policies)).await;
        Reason::PolicyChanged
    }

    fn denial_by(&self, policies: &PolicySet) -> Option<Decision> {
        match self.protocol {
            Protocol::Tcp => denial(policies.decide(&self.call())),
            Protocol::Http | Protocol::Grpc => match policies.gate(&self.call()) {
                Gate::Closed(decision) => Some(decision),
                Gate::Open | Gate::Futile(_) => None,
            },
        }
    }

    /// Resolves when policies have changed so that this request would be denied.
    pub(crate) async fn request_denied_later(self, facts: Arc<Facts>, changes: Receiver<u64>) -> Refusal {
        let call = self.call();
        let judge = |policies: &PolicySet| denial(policies.decide_request(&call, &facts.as_request()));
        self.denied_later(changes, judge).await
    }

    async fn denied_later(
        &self,
        mut changes: Receiver<u64>,
        judge: impl Fn(&PolicySet) -> Option<Decision>,
    ) -> Refusal {
        loop {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
            match self.policies() {
                Ok(policies) => {
                    if let Some(decision) = judge(&policies) {
                        return Refusal::by(decision);
                    }
                }
                Err(refusal) => return refusal,
            }
        }
    }

    fn policies(&self) -> Result<Arc<PolicySet>, Refusal> {
        let policies = self.visitor.mesh.snapshots.policies();
        policies.ok_or_else(|| Refusal::of(Why::NotReady))
    }

    fn call(&self) -> Call<'_> {
        Call {
            service: &self.visitor.own,
            peer: &self.visitor.peer,
            port: self.visitor.dialled.port(),
            protocol: self.protocol,
        }
    }

    fn counted(&self, decision: Decision) -> Result<Decision, Refusal> {
        let telemetry = self.visitor.mesh.connections.telemetry();
        telemetry.decided(
            decision.policy.as_ref(),
            decision.rule.as_ref(),
            decision.verdict.as_str(),
        );
        if let Some(denial) = &decision.would_deny {
            telemetry.decided(denial.policy.as_ref(), denial.rule.as_ref(), "would-deny");
        }
        if decision.is_allowed() {
            Ok(decision)
        } else {
            Err(Refusal::by(decision))
        }
    }
}

fn denial(decision: Decision) -> Option<Decision> {
    (!decision.is_allowed()).then_some(decision)
}
