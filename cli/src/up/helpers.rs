//! Helpers that stay in the caller's own network, and reach what the mesh's
//! networks have no way to: callers from outside for `publish`, servers
//! outside for `egress`. They are `watchword-proxy`, without any right.
//!
//! Invariant: the supervisor holds what they listen on, so a helper that
//! starts again loses no caller that waits, and no port to somebody else.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow};

use super::output::{Output, Prefix};
use super::plan::{Plan, Published};
use super::process::{self, Backoff};
use super::render;
use super::stage::{Stage, StageWatch};
use crate::launcher;
use crate::launcher::enter::{Entry, Join};
use crate::launcher::program::Program;
use crate::launcher::user_namespace::SIDECAR_UID;
use crate::mesh_folder::write_private;

/// Whether all ports can be had: nothing is started if not.
pub(crate) fn check(plan: &Plan) -> anyhow::Result<()> {
    listen(plan).map(drop)
}

/// What helpers listen on.
#[derive(Debug)]
pub(crate) struct Sockets {
    published: Vec<(Published, TcpListener)>,
    egress: Option<UnixListener>,
}

/// Takes the ports outside, and makes the socket for sidecars.
pub(crate) fn bind(plan: &Plan) -> anyhow::Result<Sockets> {
    Ok(Sockets {
        published: listen(plan)?,
        egress: plan.has_egress().then(|| bind_egress(plan)).transpose()?,
    })
}

fn listen(plan: &Plan) -> anyhow::Result<Vec<(Published, TcpListener)>> {
    let ports = plan.publisher.iter().flat_map(|publisher| &publisher.ports);
    ports
        .map(|port| Ok((port.clone(), listen_at(&port.service, port.listen)?)))
        .collect()
}

/// Takes one port outside. An error says what to do.
pub(crate) fn listen_at(service: &str, listen: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen).map_err(|error| {
        anyhow!(
            "{service} can't be published at {listen}: {}",
            explain(&error, listen.port())
        )
    })
}

fn explain(error: &io::Error, port: u16) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "something listens there already; stop it (`ss -ltnp 'sport = :{port}'` names it), or choose another port \
             under `publish`"
        ),
        io::ErrorKind::PermissionDenied => {
            "this port is for root alone; choose one from 1024 on, or run `up` as root".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; choose one of its own, such as 127.0.0.1".to_owned()
        }
        _ => error.to_string(),
    }
}

/// For sidecars alone: apps don't see the mesh folder.
fn bind_egress(plan: &Plan) -> anyhow::Result<UnixListener> {
    let path = plan.egress_socket();
    let bind = || {
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        if plan.root {
            chown(&path, Some(SIDECAR_UID), Some(SIDECAR_UID))?;
        }
        Ok::<_, io::Error>(listener)
    };
    let listener = bind().with_context(|| format!("cannot listen on {}", path.display()))?;
    let config = plan.folder.join("egress.json");
    write_private(&config, &serde_json::to_string_pretty(&render::gateway(plan))?)?;
    if plan.root {
        chown(&config, Some(SIDECAR_UID), Some(SIDECAR_UID))?;
    }
    Ok(listener)
}

impl Sockets {
    /// The helpers of published ports, which dial from the publisher's
    /// network, and that of egress.
    pub(crate) fn helpers(self, plan: &Plan, publisher: Option<u32>, output: &Output) -> (Vec<Helper>, Option<Helper>) {
        let helper = |name: String, socket, network, arguments: Vec<String>| {
            let mut command = vec![plan.tools.proxy.display().to_string()];
            command.extend(arguments);
            Helper {
                name,
                socket,
                network,
                program: Program {
                    command,
                    directories: Vec::new(),
                    privileges: plan.sidecars_privileges(&[]),
                    reports: false,
                    pid_file: None,
                },
                output: output.clone(),
            }
        };
        let published = self.published.into_iter().map(|(port, listener)| {
            let name = format!("{} at {}", port.service, port.listen);
            let arguments = vec!["carry".to_owned(), "--to".to_owned(), port.to.to_string()];
            helper(name, listener.into(), publisher, arguments)
        });
        let published = published.collect();
        let egress = self.egress.map(|listener| {
            let config = plan.folder.join("egress.json").display().to_string();
            let arguments = vec!["gateway".to_owned(), "--config".to_owned(), config];
            helper("egress".to_owned(), listener.into(), None, arguments)
        });
        (published, egress)
    }
}

/// A program that serves a socket which is its standard input.
#[derive(Debug)]
pub(crate) struct Helper {
    name: String,
    socket: OwnedFd,
    /// Whose network it dials in; the caller's own.
    network: Option<u32>,
    program: Program,
    output: Output,
}

impl Helper {
    /// Runs it from one stage to another.
    pub(crate) async fn keep(self, stage: StageWatch, (from, to): (Stage, Stage)) {
        stage.reached(from).await;
        let mut backoff = Backoff::new(Duration::from_millis(250));
        loop {
            backoff.starting();
            let trouble = match self.spawn() {
                Ok(mut child) => match process::wait_or_stop(&mut child, stage.reached(to), async {}).await {
                    Some(status) => format!("ended with {}", process::describe_end(status)),
                    None => return,
                },
                Err(error) => format!("cannot start: {error:#}"),
            };
            let pause = backoff.pause();
            let message = format!("the helper of {} {trouble}; trying again in {pause:?}", self.name);
            self.output.warn(&message).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stage.reached(to) => return,
            }
        }
    }

    fn spawn(&self) -> anyhow::Result<tokio::process::Child> {
        let mut command = match self.network {
            Some(holder) => launcher::command_with(
                "enter",
                &Entry {
                    holder,
                    join: Join::Network,
                    program: self.program.clone(),
                },
            )?,
            None => launcher::command_with("run", &self.program)?,
        };
        process::daemon_environment(&mut command);
        command.stdin(Stdio::from(self.socket.try_clone()?));
        Ok(process::spawn(command, &self.output, &Prefix::daemon(&self.name))?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::explain;

    #[test]
    fn what_is_wrong_with_an_address_comes_with_what_to_do() {
        let told = |kind: ErrorKind| explain(&Error::from(kind), 80);
        assert!(told(ErrorKind::AddrInUse).contains("`ss -ltnp 'sport = :80'`"));
        assert!(told(ErrorKind::PermissionDenied).contains("from 1024 on"));
        assert!(told(ErrorKind::AddrNotAvailable).contains("one of its own"));
    }
}
