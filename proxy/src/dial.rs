//! Connections that the sidecar itself opens: told apart from the app's, so
//! that interception does not send them back to us.

mod call;
mod used;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::libc::{EINPROGRESS, ETIMEDOUT};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::config::{APP_MARK, DialFrom, Interception, LOCAL_MARK, LoopProtection, PROXY_MARK};
use crate::intercept::way_back;

pub(crate) use used::UsedSockets;

/// For a TCP connection to be made (docs/wire.md).
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Silence after which the peer's kernel is asked whether it is there, how
/// often, and how many unanswered questions end the connection (docs/wire.md).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;

/// Without Nagle's delay, and so that a peer that vanished is found although
/// nothing is sent to it.
pub(crate) fn watch_peer(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    socket.set_tcp_keepalive(&keepalive)
}

/// For the trial at start, which goes by loopback.
const TRIAL_DEADLINE: Duration = Duration::from_secs(3);
/// Whom the trial pretends to be called by: RFC 5737 and RFC 3849, for
/// documentation.
const TRIAL_CALLERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Who sends first on a connection that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// We do, at once.
    Us,
    /// Nobody knows.
    Either,
}

impl First {
    /// Where this is there to be sent.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        if bytes.is_empty() { Self::Either } else { Self::Us }
    }

    /// Before the socket connects.
    fn prepare(self, socket: &Socket) {
        if self == Self::Us {
            // The handshake's last packet waits for what we send, and goes with it.
            let _ = socket.set_tcp_quickack(false);
        }
    }
}

/// Where the app sees a call come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Caller(IpAddr),
    /// Any of the reserved addresses.
    Reserved,
    /// The kernel's choice, for a destination of this family.
    Own {
        is_ipv6: bool,
    },
}

/// How to dial without being captured, and where the app sees calls come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialler {
    loop_protection: LoopProtection,
    /// For IPv4 and IPv6: what was seen to work.
    dial_from: [DialFrom; 2],
}

impl Dialler {
    /// Tries what the configuration asks for. What nobody asked for by name
    /// and can't be had is replaced by the own address, and the log says so.
    ///
    /// # Errors
    /// When packets can't be marked, or what was asked for by name can't be had.
    pub(crate) async fn new(config: &Interception) -> anyhow::Result<Self> {
        let mut dialler = Self {
            loop_protection: config.loop_protection,
            dial_from: [DialFrom::Own; 2],
        };
        dialler
            .socket(([127, 0, 0, 1], 0).into())
            .context("interception.loopProtection: mark needs CAP_NET_ADMIN to mark packets")?;
        let wanted = config.dial_from();
        for (found, caller) in dialler.dial_from.iter_mut().zip(TRIAL_CALLERS) {
            match dialler_for(config, wanted).try_as(wanted, caller).await {
                Ok(()) => *found = wanted,
                Err(problem) => {
                    let family = if caller.is_ipv4() { "IPv4" } else { "IPv6" };
                    ensure!(
                        config.dial_from.is_none(),
                        "interception.dialFrom: {wanted:?} can't be had for {family}: {problem}"
                    );
                    tracing::warn!(
                        %family, %problem,
                        "the app is dialled from the workload's own address: it sees calls as coming from there, and \
                         takes about 470 short connections per second to one port"
                    );
                }
            }
        }
        Ok(dialler)
    }

    /// Where nothing is captured.
    pub(crate) fn not_captured() -> Self {
        Self {
            loop_protection: LoopProtection::Uid,
            dial_from: [DialFrom::Own; 2],
        }
    }

    /// Marks its packets, and dials from the own address.
    #[cfg(test)]
    pub(crate) fn without_trial() -> Self {
        Self {
            loop_protection: LoopProtection::Mark,
            dial_from: [DialFrom::Own; 2],
        }
    }

    /// Connects within the deadline, without Nagle's delay.
    pub(crate) async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        connect_within(self.socket(to)?, to).await
    }

    /// Connects to the app for a caller, whose address must be that of the
    /// connection which it made, never one that it told.
    pub(crate) async fn connect_app(&self, to: SocketAddr, caller: IpAddr, first: First) -> io::Result<TcpStream> {
        let socket = self.app_socket(self.source((to, caller)), to)?;
        first.prepare(&socket);
        connect_to_app(socket, to).await
    }

    fn source(&self, (to, caller): (SocketAddr, IpAddr)) -> Source {
        let [ipv4, ipv6] = self.dial_from;
        let from = if to.is_ipv4() { ipv4 } else { ipv6 };
        match from {
            DialFrom::Client if may_be_shown(caller, to) => Source::Caller(caller),
            DialFrom::Reserved => Source::Reserved,
            DialFrom::Client | DialFrom::Own => Source::Own { is_ipv6: to.is_ipv6() },
        }
    }

    fn app_socket(&self, source: Source, to: SocketAddr) -> io::Result<Socket> {
        match source {
            Source::Caller(caller) => self.socket_of_caller(caller),
            Source::Reserved => self.socket_of_reserved(to),
            Source::Own { .. } => self.local_socket(to),
        }
    }

    /// Connects to the app for itself: from the own address, as it would.
    pub(crate) async fn connect_self(&self, to: SocketAddr) -> io::Result<TcpStream> {
        connect_to_app(self.local_socket(to)?, to).await
    }

    fn socket(&self, to: SocketAddr) -> io::Result<Socket> {
        let socket = new_socket(to)?;
        if self.loop_protection == LoopProtection::Mark {
            socket.set_mark(PROXY_MARK)?;
        }
        Ok(socket)
    }

    /// The app's accepted socket may get the mark of ours, so it is one that
    /// lets nothing leave.
    fn local_socket(&self, to: SocketAddr) -> io::Result<Socket> {
        let socket = new_socket(to)?;
        if self.loop_protection == LoopProtection::Mark {
            socket.set_mark(LOCAL_MARK)?;
        }
        Ok(socket)
    }

    fn socket_of_caller(&self, caller: IpAddr) -> io::Result<Socket> {
        let from = SocketAddr::new(caller, 0);
        let socket = new_socket(from)?;
        socket.set_mark(APP_MARK)?;
        match caller {
            IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
            IpAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
        }
        bind(socket, from)
    }

    fn socket_of_reserved(&self, to: SocketAddr) -> io::Result<Socket> {
        let socket = self.local_socket(to)?;
        let from = way_back::reserved(to.is_ipv6());
        if from.is_ipv6() {
            // IPv4 takes any address of a local route; IPv6 those of interfaces.
            socket.set_freebind_v6(true)?;
        }
        bind(socket, SocketAddr::new(from, 0))
    }

    /// Calls itself by loopback as it would call the app, and must be answered.
    async fn try_as(&self, from: DialFrom, caller: IpAddr) -> Result<(), String> {
        let loopback: IpAddr = match caller {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let Ok(listener) = TcpListener::bind((loopback, 0)).await else {
            // A machine without IPv6: nothing comes by it.
            return Ok(());
        };
        way_back::check_settings(from, caller.is_ipv6())?;
        let to = listener.local_addr().map_err(|error| error.to_string())?;
        match timeout(TRIAL_DEADLINE, self.connect_app(to, caller, First::Either)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("answers do not come back; `watchword-proxy intercept install` makes their way".to_owned()),
        }
    }
}

fn dialler_for(config: &Interception, from: DialFrom) -> Dialler {
    Dialler {
        loop_protection: config.loop_protection,
        dial_from: [from; 2],
    }
}

/// Whether the app may see this as its peer. What is local to a machine gets
/// trust from many apps, and a link-local address means nothing without its link.
fn may_be_shown(caller: IpAddr, to: SocketAddr) -> bool {
    let special = match caller {
        IpAddr::V4(caller) => caller.is_broadcast(),
        IpAddr::V6(caller) => caller.is_unicast_link_local() || caller.to_ipv4_mapped().is_some(),
    };
    caller.is_ipv4() == to.is_ipv4()
        && !(special || caller.is_loopback() || caller.is_unspecified() || caller.is_multicast())
}

pub(crate) fn new_socket(family_of: SocketAddr) -> io::Result<Socket> {
    let stream = Type::STREAM.nonblocking();
    Socket::new(Domain::for_address(family_of), stream, Some(Protocol::TCP))
}

/// To an address, leaving the port to connect(), which then needs it to be
/// free towards one destination only.
fn bind(socket: Socket, from: SocketAddr) -> io::Result<Socket> {
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.bind(&from.into())?;
    Ok(socket)
}

/// Within the deadline, without Nagle's delay.
pub(crate) async fn connect_within(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    watch_peer(&socket)?;
    connect_in_time(socket, to).await
}

/// The same, to a program on this machine, which can't vanish unnoticed.
async fn connect_to_app(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    socket.set_tcp_nodelay(true)?;
    connect_in_time(socket, to).await
}

async fn connect_in_time(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(begin_to_connect(socket, to)?.into())?;
    connected_in_time(&stream).await?;
    Ok(stream)
}

/// A connection that may have yet to be made.
fn begin_to_connect(socket: Socket, to: SocketAddr) -> io::Result<Socket> {
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(EINPROGRESS) => Err(error),
        Ok(()) | Err(_) => Ok(socket),
    }
}

/// Waits until it is made (connect(2)).
async fn connected_in_time(stream: &TcpStream) -> io::Result<()> {
    timeout(CONNECT_DEADLINE, stream.writable())
        .await
        .map_err(|_| io::Error::from_raw_os_error(ETIMEDOUT))??;
    stream.take_error()?.map_or(Ok(()), Err)
}

#[cfg(test)]
#[path = "dial_tests.rs"]
mod tests;
