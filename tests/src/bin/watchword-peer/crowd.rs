//! Many connections that are open at the same time.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use anyhow::Result;
use socket2::Socket;

use crate::connection::name;
use crate::pattern::Side;

/// All connections of one side.
#[derive(Default)]
pub(crate) struct Crowd {
    sockets: Vec<Socket>,
    role: Option<Side>,
}

impl Crowd {
    pub(crate) fn new(sockets: Vec<Socket>, role: Side, patience: Duration) -> io::Result<Self> {
        for socket in &sockets {
            socket.set_read_timeout(Some(patience))?;
        }
        Ok(Self {
            sockets,
            role: Some(role),
        })
    }

    /// What a caller says first: its number, which nobody else has.
    pub(crate) fn greet(mut socket: &Socket, index: usize) -> Result<()> {
        Ok(socket.write_all(&u64::try_from(index)?.to_be_bytes())?)
    }

    /// The server returns each greeting; the caller wants its own back.
    pub(crate) fn converse(&self) -> String {
        self.count("conversed", |role, index, mut socket| {
            let mut greeting = [0; 8];
            socket.read_exact(&mut greeting)?;
            if role == Side::Server {
                return socket.write_all(&greeting);
            }
            if greeting == (index as u64).to_be_bytes() {
                return Ok(());
            }
            Err(io::Error::other("somebody else's greeting"))
        })
    }

    /// The caller ends each connection first, and both see the end.
    pub(crate) fn disperse(&mut self) -> String {
        if self.role == Some(Side::Caller) {
            // All of them before the first answer: the server has an order of its own.
            for socket in &self.sockets {
                // Who failed already shows it below.
                let _ = socket.shutdown(Shutdown::Write);
            }
        }
        let answer = self.count("ended in order", |role, _, mut socket| {
            if socket.read(&mut [0])? > 0 {
                return Err(io::Error::other("a byte too many"));
            }
            if role == Side::Server {
                socket.shutdown(Shutdown::Write)?;
            }
            Ok(())
        });
        self.sockets.clear();
        answer
    }

    /// Does it to each, and says how many went well, and how the others went.
    fn count(&self, done: &str, mut act: impl FnMut(Side, usize, &Socket) -> io::Result<()>) -> String {
        let mut trouble = std::collections::BTreeMap::<String, usize>::new();
        for (index, socket) in self.sockets.iter().enumerate() {
            if let Err(error) = act(self.role.unwrap_or(Side::Caller), index, socket) {
                *trouble.entry(name(&error)).or_default() += 1;
            }
        }
        let well = self.sockets.len() - trouble.values().sum::<usize>();
        let trouble: String = trouble
            .iter()
            .map(|(what, count)| format!(", {count} {what}"))
            .collect();
        format!("{well} {done}{trouble}")
    }
}
