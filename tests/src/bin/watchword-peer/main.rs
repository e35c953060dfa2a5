//! One side of a TCP conversation, for tests: does what standard input says,
//! a command per line, and answers each with one line that says what it saw.
//!
//! Invariants: an answer depends on what happened and never on how fast; every
//! byte is checked against what the other side sends at that place; everything
//! has a deadline. Must not know: whether there is a mesh.

mod connection;
mod crowd;
mod pattern;

use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

use crate::connection::{Connection, name};
use crate::crowd::Crowd;
use crate::pattern::Side;

const USAGE: &str = "usage: watchword-peer listen|call IP:PORT PATIENCE-IN-SECONDS";
/// As much as the kernel takes.
const BACKLOG: i32 = 4096;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, address, patience] = arguments.as_slice() else {
        bail!(USAGE);
    };
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let address: SocketAddr = address.parse().context(USAGE)?;
    let mut peer = Peer {
        place: match role.as_str() {
            "listen" => Place::Listens(listen(address).with_context(|| format!("can't listen on {address}"))?),
            "call" => Place::Calls(address),
            _ => bail!(USAGE),
        },
        patience: Duration::from_secs(patience.parse().context(USAGE)?),
        buffer: None,
        connection: None,
        crowd: Crowd::default(),
    };
    let mut output = io::stdout();
    writeln!(output, "ready")?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let answer = peer.obey(&line).with_context(|| line.clone())?;
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = new_socket(address)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
}

enum Place {
    Listens(Socket),
    Calls(SocketAddr),
}

struct Peer {
    place: Place,
    patience: Duration,
    /// The receive buffer of the connections that it makes.
    buffer: Option<usize>,
    connection: Option<Connection>,
    crowd: Crowd,
}

impl Peer {
    fn obey(&mut self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let command = words.next().context("a command is missing")?;
        let number = words.next().map(str::parse::<usize>).transpose()?;
        let needed = || number.context("a number is missing");
        Ok(match command {
            "buffer" => self.set_buffer(needed()?)?,
            "open" => self.open()?,
            "crowd" => self.gather(needed()?)?,
            "disperse" => self.crowd.disperse(),
            // As a process that is killed: the kernel closes what it had.
            "die" => std::process::exit(0),
            "close" => {
                self.connection = None;
                "closed".to_owned()
            }
            "reset" => {
                self.connection.take().context("nothing is open")?.reset()?;
                "gone".to_owned()
            }
            _ => {
                let connection = self.connection.as_mut().context("nothing is open")?;
                match command {
                    "send" => connection.send(needed()?),
                    "trickle" => connection.trickle(needed()?)?,
                    "fill" => connection.fill()?,
                    "push" => connection.push(),
                    "end" => connection.end(),
                    "take" => connection.take(needed()?),
                    "read" => connection.read(),
                    "drain" => connection.drain(),
                    "sip" => connection.sip(),
                    "quiet" => connection.quiet(Duration::from_millis(needed()?.try_into()?))?,
                    "watch" => connection.watch()?,
                    "exchange" => connection.exchange(needed()?)?,
                    _ => bail!("there is no such command"),
                }
            }
        })
    }

    /// A small receive buffer for the connections that are opened from now on.
    fn set_buffer(&mut self, bytes: usize) -> Result<String> {
        match &self.place {
            // Who is accepted inherits it.
            Place::Listens(socket) => socket.set_recv_buffer_size(bytes)?,
            Place::Calls(_) => self.buffer = Some(bytes),
        }
        Ok("set".to_owned())
    }

    fn open(&mut self) -> Result<String> {
        Ok(match self.one()? {
            Ok((socket, side)) => {
                self.connection = Some(Connection::new(socket, side, self.patience)?);
                "open".to_owned()
            }
            Err(error) => name(&error),
        })
    }

    /// Opens so many, and has each say and hear something.
    fn gather(&mut self, count: usize) -> Result<String> {
        let mut sockets = Vec::new();
        let mut role = Side::Caller;
        for index in 0..count {
            match self.one()? {
                Ok((socket, side)) => {
                    role = side;
                    if side == Side::Caller {
                        Crowd::greet(&socket, index)?;
                    }
                    sockets.push(socket);
                }
                Err(error) => return Ok(format!("{}, the {index}th", name(&error))),
            }
        }
        self.crowd = Crowd::new(sockets, role, self.patience)?;
        Ok(self.crowd.converse())
    }

    fn one(&self) -> Result<io::Result<(Socket, Side)>> {
        Ok(match &self.place {
            Place::Listens(listener) => {
                listener.set_read_timeout(Some(self.patience))?;
                listener.accept().map(|(socket, _)| (socket, Side::Server))
            }
            Place::Calls(address) => {
                let socket = new_socket(*address)?;
                if let Some(bytes) = self.buffer {
                    socket.set_recv_buffer_size(bytes)?;
                }
                // The kernel's own patience with a connect() is in minutes.
                socket
                    .connect_timeout(&(*address).into(), self.patience)
                    .map(|()| (socket, Side::Caller))
            }
        })
    }
}
