//! Who gets an identity by the workload socket.

use std::path::PathBuf;

use serde::Deserialize;

use super::SpiffeIdText;

/// The socket of the SPIFFE Workload API and Envoy's SDS.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadApi {
    /// By default `workload.sock` in `runDir`.
    pub socket: Option<PathBuf>,
    /// Who gets what.
    pub callers: Vec<WorkloadCaller>,
}

/// A user that may have an identity.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadCaller {
    /// Who it must be when it connects.
    pub uid: User,
    /// By default the proxy's own. For another one, the control plane's
    /// registry must name this proxy as its agent.
    pub id: Option<SpiffeIdText>,
}

/// Users of this machine, as the kernel tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Whoever can open the socket: in a pod, whose containers it is shown to.
    Any,
    /// This one.
    Uid(u32),
}

impl<'de> Deserialize<'de> for User {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "any" => Ok(Self::Any),
            number => number
                .parse()
                .map(Self::Uid)
                .map_err(|_| serde::de::Error::custom(format!("{text:?} is neither a uid nor `any`"))),
        }
    }
}

impl WorkloadApi {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.callers.is_empty() {
            return Err("workloadApi: `callers` is empty: nobody could use the socket".into());
        }
        let is_again = |(index, caller): (usize, &WorkloadCaller)| self.callers.iter().take(index).any(|c| c == caller);
        if let Some((_, twice)) = self.callers.iter().enumerate().find(|entry| is_again(*entry)) {
            return Err(format!("workloadApi: `callers` names {twice:?} twice"));
        }
        Ok(())
    }
}
