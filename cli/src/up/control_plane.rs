//! The mesh's control plane, as a child in the caller's own network.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Child;

use super::output::{Output, Prefix};
use super::plan::Plan;
use super::process::{self, Backoff};
use super::render;
use super::stage::{Stage, StageWatch};
use crate::admin_client::Admin;
use crate::launcher;
use crate::launcher::privileges::Privileges;
use crate::launcher::program::Program;
use crate::mesh_folder::write_private;

const POLL: Duration = Duration::from_millis(25);

/// A control plane that has answered.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    child: Child,
    plan: Plan,
    output: Output,
}

/// Starts it and waits until it answers. Fails when it ends before.
pub(crate) async fn start(plan: &Plan, output: &Output) -> anyhow::Result<ControlPlane> {
    let text = serde_json::to_string_pretty(&render::control_plane(plan))?;
    write_private(&plan.folder.join("control-plane.yaml"), &text)?;
    let mut child = spawn(plan, output).context("cannot start the control plane")?;
    let admin = Admin::new(&plan.admin_socket());
    loop {
        tokio::select! {
            status = child.wait() => {
                bail!("the control plane ended with {} before it was ready", process::describe(status?));
            }
            answer = admin.status() => if answer.is_ok() {
                break;
            },
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(ControlPlane {
        child,
        plan: plan.clone(),
        output: output.clone(),
    })
}

impl ControlPlane {
    /// Starts it again whenever it ends, until the mesh does: sidecars go on
    /// with what they know meanwhile.
    pub(crate) async fn keep(mut self, stage: StageWatch) {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        loop {
            backoff.starting();
            let stop = stage.reached(Stage::StopControlPlane);
            let Some(status) = process::wait_or_stop(&mut self.child, stop, async {}).await else {
                return;
            };
            if !self.restart(status, &mut backoff, &stage).await {
                return;
            }
        }
    }

    /// Whether it runs again; otherwise the mesh ends.
    async fn restart(
        &mut self,
        status: std::io::Result<ExitStatus>,
        backoff: &mut Backoff,
        stage: &StageWatch,
    ) -> bool {
        let mut end = process::describe_end(status);
        loop {
            let pause = backoff.pause();
            let message = format!(
                "the control plane ended with {end}; starting it again in {} s",
                pause.as_secs()
            );
            self.output.warn(&message).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stage.reached(Stage::StopControlPlane) => return false,
            }
            match spawn(&self.plan, &self.output) {
                Ok(child) => {
                    self.child = child;
                    return true;
                }
                Err(error) => end = format!("{error:#}"),
            }
        }
    }
}

fn spawn(plan: &Plan, output: &Output) -> anyhow::Result<Child> {
    let config = plan.folder.join("control-plane.yaml").display().to_string();
    let program = Program {
        command: vec![
            plan.tools.control_plane.display().to_string(),
            "run".to_owned(),
            "--config".to_owned(),
            config,
        ],
        directories: Vec::new(),
        // It owns all that it writes; policies may be anybody's.
        privileges: Privileges::Only {
            capabilities: vec!["CAP_DAC_READ_SEARCH".to_owned()],
        },
        reports: false,
        pid_file: None,
    };
    let mut command = launcher::command_with("run", &program)?;
    process::daemon_environment(&mut command);
    command.stdin(Stdio::null());
    Ok(process::spawn(command, output, &Prefix::daemon("control plane"))?)
}
