//! The least that any pair of sidecars does: connections of apps, carried in
//! frames through tunnels that are kept, without policies, deadlines or
//! metrics, and with TLS or without. One thread, one wait for many events, one
//! read and one write per hop and direction. What it takes is the kernel's, and
//! that of rustls; no sidecar takes less.
//!
//! Invariant: it is good for what the load here does. Nothing bounds what a
//! reader that stalls makes it keep, and an error ends the program.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Type};

use encrypted::Encrypted;
use socket::Socket;

mod encrypted;
mod socket;

/// The first argument of such a program.
pub(crate) const COMMAND: &str = "least";

const LISTENER: Token = Token(usize::MAX);
const HEADER: usize = 8;
const OPEN: u8 = 1;
const DATA: u8 = 5;
const FIN: u8 = 6;

/// `client|server own|shared|encrypted LISTEN DIAL FOLDER`, without end; the
/// folder has the certificates.
pub(crate) fn run(words: &[String]) -> Result<()> {
    watchword_benches::raise_limits();
    let [side, tunnels, listen, dial, folder] = words else {
        bail!("least takes a side, a kind of tunnels, two addresses and a folder");
    };
    let poll = Poll::new()?;
    let mut listener = listen_at(listen.parse()?)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    Carrier {
        poll,
        listener,
        dial: dial.parse()?,
        is_client: side == "client",
        is_shared: tunnels == "shared",
        encrypted: match tunnels.as_str() {
            "encrypted" => Some(Encrypted::read(folder.as_ref(), side)?),
            _ => None,
        },
        links: Vec::new(),
        free: Vec::new(),
        idle: Vec::new(),
        unsent: Vec::new(),
        room: vec![0; 64 << 10],
    }
    .carry()
}

/// What it accepts has the listener's options.
fn listen_at(address: SocketAddr) -> Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(TcpListener::from_std(socket.into()))
}

struct Carrier {
    poll: Poll,
    listener: TcpListener,
    dial: SocketAddr,
    is_client: bool,
    /// One tunnel for all streams, or one for each that is open.
    is_shared: bool,
    encrypted: Option<Encrypted>,
    links: Vec<Option<Link>>,
    free: Vec<usize>,
    /// The client's tunnels that no stream uses.
    idle: Vec<usize>,
    /// Tunnels with something to send, once all that has come is read.
    unsent: Vec<usize>,
    room: Vec<u8>,
}

struct Link {
    socket: Socket,
    out: Vec<u8>,
    is_to_end: bool,
    end: End,
}

enum End {
    App(App),
    Tunnel(Tunnel),
}

#[derive(Clone, Copy)]
struct App {
    tunnel: usize,
    stream: u32,
    /// The app said so, and the other side.
    ended: [bool; 2],
}

#[derive(Default)]
struct Tunnel {
    partial: Vec<u8>,
    streams: HashMap<u32, usize>,
    last: u32,
    is_unsent: bool,
}

impl Carrier {
    fn carry(mut self) -> Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                if event.token() == LISTENER {
                    self.accept()?;
                    continue;
                }
                let index = event.token().0;
                if event.is_writable() {
                    self.flush(index)?;
                }
                if event.is_readable() {
                    if let Some(Some(link)) = self.links.get(index) {
                        link.socket.is_readable();
                    }
                    self.read(index, event.is_read_closed())?;
                }
                if !self.is_shared {
                    self.send()?;
                }
            }
            self.send()?;
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if !self.is_client {
                let socket = match &self.encrypted {
                    Some(encrypted) => encrypted.accept(socket)?,
                    None => Socket::Plain(socket),
                };
                let tunnel = self.add(socket, End::Tunnel(Tunnel::default()))?;
                // The first frames may have come with the handshake.
                self.read(tunnel, false)?;
                continue;
            }
            let tunnel = match self.idle.last().copied() {
                Some(tunnel) if self.is_shared => tunnel,
                Some(_) => self.idle.pop().context("an idle tunnel")?,
                None => {
                    let socket = match &self.encrypted {
                        Some(encrypted) => encrypted.connect(self.dial)?,
                        None => self.dial()?,
                    };
                    let tunnel = self.add(socket, End::Tunnel(Tunnel::default()))?;
                    if self.is_shared {
                        self.idle.push(tunnel);
                    }
                    tunnel
                }
            };
            self.tunnel(tunnel)?.last += 1;
            let stream = self.tunnel(tunnel)?.last;
            let app = self.add(
                Socket::Plain(socket),
                End::App(App {
                    tunnel,
                    stream,
                    ended: [false; 2],
                }),
            )?;
            self.tunnel(tunnel)?.streams.insert(stream, app);
            self.say(tunnel, OPEN, stream, 0)?;
        }
    }

    fn dial(&self) -> Result<Socket> {
        let socket = TcpStream::connect(self.dial)?;
        socket.set_nodelay(true)?;
        Ok(Socket::Plain(socket))
    }

    fn add(&mut self, mut socket: Socket, end: End) -> Result<usize> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.links.push(None);
            self.links.len() - 1
        });
        let both = Interest::READABLE | Interest::WRITABLE;
        socket.register(self.poll.registry(), Token(index), both)?;
        self.links[index] = Some(Link {
            socket,
            out: Vec::new(),
            is_to_end: false,
            end,
        });
        Ok(index)
    }

    fn tunnel(&mut self, index: usize) -> Result<&mut Tunnel> {
        match self.links[index].as_mut().map(|link| &mut link.end) {
            Some(End::Tunnel(tunnel)) => Ok(tunnel),
            _ => bail!("not a tunnel"),
        }
    }

    /// A frame, with so much of the room behind its place there.
    fn say(&mut self, tunnel: usize, kind: u8, stream: u32, length: usize) -> Result<()> {
        self.room[..4].copy_from_slice(&(length as u32).to_be_bytes());
        self.room[0] = kind;
        self.room[4..HEADER].copy_from_slice(&stream.to_be_bytes());
        let link = self.links[tunnel].as_mut().context("a tunnel")?;
        link.out.extend_from_slice(&self.room[..HEADER + length]);
        if let End::Tunnel(state) = &mut link.end
            && !state.is_unsent
        {
            state.is_unsent = true;
            self.unsent.push(tunnel);
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        while let Some(tunnel) = self.unsent.pop() {
            self.tunnel(tunnel)?.is_unsent = false;
            self.flush(tunnel)?;
        }
        Ok(())
    }

    fn flush(&mut self, index: usize) -> Result<()> {
        let Some(Some(link)) = self.links.get_mut(index) else {
            return Ok(());
        };
        let mut sent = 0;
        while sent < link.out.len() {
            match link.socket.write(&link.out[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        link.out.drain(..sent);
        if link.is_to_end && link.out.is_empty() {
            link.is_to_end = false;
            match link.socket.end() {
                Err(error) if error.kind() == ErrorKind::NotConnected => {}
                ended => ended?,
            }
        }
        Ok(())
    }

    fn read(&mut self, index: usize, has_ended: bool) -> Result<()> {
        loop {
            let Some(Some(link)) = self.links.get_mut(index) else {
                return Ok(());
            };
            let is_app = matches!(link.end, End::App(_));
            // TLS may have more, and knows itself when a read would be in vain.
            let tells_all = matches!(link.socket, Socket::Plain(_)) && !has_ended;
            let room = self.room.len();
            let count = match link.socket.read(&mut self.room[HEADER..]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // A load that is over closes as it likes.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
                read => read?,
            };
            if is_app {
                self.said_by_app(index, count)?;
            } else {
                self.came(index, count)?;
            }
            // Less than there is room for is all that there was.
            if count == 0 || (count < room - HEADER && tells_all) {
                return Ok(());
            }
        }
    }

    fn said_by_app(&mut self, index: usize, count: usize) -> Result<()> {
        let Some(Some(Link { end: End::App(app), .. })) = self.links.get_mut(index) else {
            bail!("not an app");
        };
        if count > 0 {
            let App { tunnel, stream, .. } = *app;
            return self.say(tunnel, DATA, stream, count);
        }
        if app.ended[0] {
            return Ok(());
        }
        app.ended[0] = true;
        let App { tunnel, stream, ended } = *app;
        let unsent = self.unsent.len();
        self.say(tunnel, FIN, stream, 0)?;
        if ended[1] {
            if self.is_client && self.unsent.len() > unsent {
                // Nobody waits for it: it goes with the next stream's beginning.
                self.unsent.pop();
                self.tunnel(tunnel)?.is_unsent = false;
            }
            self.end(index)?;
        }
        Ok(())
    }

    fn end(&mut self, index: usize) -> Result<()> {
        let link = self.links[index].take().context("a link")?;
        self.free.push(index);
        if let End::App(app) = link.end {
            self.tunnel(app.tunnel)?.streams.remove(&app.stream);
            if self.is_client && !self.is_shared {
                self.idle.push(app.tunnel);
            }
        }
        Ok(())
    }

    fn came(&mut self, index: usize, count: usize) -> Result<()> {
        if count == 0 {
            bail!("a tunnel has ended");
        }
        let mut came = std::mem::take(&mut self.tunnel(index)?.partial);
        let room = std::mem::take(&mut self.room);
        let mut rest = if came.is_empty() {
            &room[HEADER..HEADER + count]
        } else {
            came.extend_from_slice(&room[HEADER..HEADER + count]);
            &came[..]
        };
        while let Some((header, behind)) = rest.split_at_checked(HEADER) {
            let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
            let stream = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let Some((payload, behind)) = behind.split_at_checked(length) else {
                break;
            };
            self.frame(index, header[0], stream, payload)?;
            rest = behind;
        }
        self.tunnel(index)?.partial = rest.to_vec();
        self.room = room;
        Ok(())
    }

    fn frame(&mut self, tunnel: usize, kind: u8, stream: u32, payload: &[u8]) -> Result<()> {
        if kind == OPEN {
            let app = App {
                tunnel,
                stream,
                ended: [false; 2],
            };
            let socket = self.dial()?;
            let app = self.add(socket, End::App(app))?;
            self.tunnel(tunnel)?.streams.insert(stream, app);
            return Ok(());
        }
        let Some(index) = self.tunnel(tunnel)?.streams.get(&stream).copied() else {
            bail!("no stream {stream}");
        };
        let Some(link) = &mut self.links[index] else {
            bail!("no app");
        };
        if kind == DATA {
            let sent = match link.out.is_empty() {
                true => match link.socket.write(payload) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => payload.len(),
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => payload.len(),
                    sent => sent?,
                },
                false => 0,
            };
            link.out.extend_from_slice(&payload[sent..]);
            return Ok(());
        }
        let End::App(app) = &mut link.end else {
            bail!("not an app");
        };
        app.ended[1] = true;
        if app.ended[0] {
            return self.end(index);
        }
        link.is_to_end = true;
        self.flush(index)
    }
}
