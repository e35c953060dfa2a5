//! Tasks that carry connections of the workload, one after the other: a task for
//! each would be made and thrown away as often as an app connects.
//!
//! Invariant: so many rest at most; what comes beyond has a task that ends with
//! its connection.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::net::TcpStream;
use tokio::sync::oneshot::{Receiver, Sender, channel};

use super::send;
use crate::mesh::Mesh;

/// Of so many connections that end at once all carriers are used again.
const MOST: usize = 64;

type Accepted = (TcpStream, SocketAddr);

/// Those of one worker that rest.
#[derive(Debug, Default)]
pub(crate) struct Carriers(Mutex<Vec<Sender<Accepted>>>);

impl Carriers {
    /// By the one that carried last, whose memory is the warmest. Gives back what
    /// nobody can take.
    fn carry(&self, mut accepted: Accepted) -> Option<Accepted> {
        loop {
            let Some(carrier) = self.lock().pop() else {
                return Some(accepted);
            };
            match carrier.send(accepted) {
                Ok(()) => return None,
                // The runtime is ending.
                Err(refused) => accepted = refused,
            }
        }
    }

    /// What the next connection comes by; nothing where enough rest.
    fn rest(&self) -> Option<Receiver<Accepted>> {
        let mut resting = self.lock();
        if resting.len() >= MOST {
            return None;
        }
        let (carrier, next) = channel();
        resting.push(carrier);
        Some(next)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Sender<Accepted>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a connection that the kernel sent to us; does not wait.
pub(crate) fn begin(mesh: &Mesh, app: TcpStream, from: SocketAddr) {
    let Some((mut app, mut from)) = mesh.carriers.carry((app, from)) else {
        return;
    };
    let mesh = mesh.clone();
    tokio::spawn(async move {
        loop {
            send(&mesh, app, from).await;
            let Some(next) = mesh.carriers.rest() else {
                return;
            };
            match next.await {
                Ok(accepted) => (app, from) = accepted,
                // Nobody lets go of a carrier that rests.
                Err(_) => return,
            }
        }
    });
}
