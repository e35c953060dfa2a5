//! How far a mesh is, on the way up and down.
//!
//! Invariant: stages only go forward.

use tokio::sync::watch;

/// What the mesh's parts may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Sidecars start; apps wait.
    Sidecars,
    /// Every sidecar has been ready: apps run.
    Apps,
    /// Apps end.
    StopApps,
    /// Sidecars drain and end.
    StopSidecars,
    /// The control plane ends.
    StopControlPlane,
}

/// Moves the mesh on.
#[derive(Debug)]
pub(crate) struct StageSender(watch::Sender<Stage>);

/// Waits for the mesh to move on.
#[derive(Clone, Debug)]
pub(crate) struct StageWatch(watch::Receiver<Stage>);

/// A mesh that is starting.
pub(crate) fn channel() -> (StageSender, StageWatch) {
    let (sender, receiver) = watch::channel(Stage::Sidecars);
    (StageSender(sender), StageWatch(receiver))
}

impl StageSender {
    /// Goes to `stage`, unless the mesh is further already.
    pub(crate) fn advance(&self, stage: Stage) {
        self.0.send_if_modified(|current| {
            let further = stage > *current;
            if further {
                *current = stage;
            }
            further
        });
    }
}

impl StageWatch {
    /// Waits until `stage` is reached or passed. A mesh that is gone has
    /// passed all of them.
    pub(crate) async fn reached(&self, stage: Stage) {
        let _ = self.0.clone().wait_for(|current| *current >= stage).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stages_go_forward_only() {
        let (sender, stage) = channel();
        sender.advance(Stage::StopApps);
        sender.advance(Stage::Apps);
        stage.reached(Stage::Apps).await;
        stage.reached(Stage::StopApps).await;
        let further = stage.reached(Stage::StopSidecars);
        assert!(tokio::time::timeout(Duration::from_secs(1), further).await.is_err());
        drop(sender);
        stage.reached(Stage::StopControlPlane).await;
    }
}
