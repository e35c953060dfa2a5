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
            // Nobody lets go of a carrier that rests.
            let Ok(accepted) = next.await else { return };
            (app, from) = accepted;
        }
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    async fn accepted(listener: &TcpListener) -> Accepted {
        let address = listener.local_addr().unwrap();
        let (called, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        drop(called.unwrap());
        accepted.unwrap()
    }

    #[tokio::test]
    async fn who_carried_last_is_given_the_next_connection() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let carriers = Carriers::default();
        let (app, from) = carriers.carry(accepted(&listener).await).unwrap();
        let (mut first, mut last) = (carriers.rest().unwrap(), carriers.rest().unwrap());
        assert!(carriers.carry((app, from)).is_none());
        assert!(first.try_recv().is_err());
        assert_eq!(last.try_recv().unwrap().1, from);
        let next = accepted(&listener).await;
        let from = next.1;
        assert!(carriers.carry(next).is_none());
        assert_eq!(first.try_recv().unwrap().1, from);
    }

    #[tokio::test]
    async fn a_connection_that_nobody_can_take_is_given_back() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let carriers = Carriers::default();
        drop(carriers.rest().unwrap());
        assert!(carriers.carry(accepted(&listener).await).is_some());
        assert!(carriers.lock().is_empty());
    }

    #[test]
    fn no_more_rest_than_are_of_use() {
        let carriers = Carriers::default();
        let resting: Vec<_> = std::iter::from_fn(|| carriers.rest()).take(MOST + 1).collect();
        assert_eq!(resting.len(), MOST);
    }
}
