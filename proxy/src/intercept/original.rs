//! Where a captured connection was going: the kernel knows, nobody else is
//! asked.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::ifaddrs::getifaddrs;
use socket2::SockRef;
use thiserror::Error;
use tokio::net::TcpStream;

use super::{HEALTH_PORT, INBOUND_PORT, OUTBOUND_PORT};

/// Why a connection to our listener is not a captured one.
#[derive(Debug, Error)]
pub enum OriginalError {
    /// The kernel has no answer.
    #[error("the kernel does not say where the connection was going: {0}")]
    Unknown(#[from] io::Error),
    /// It was made to our own port: carrying it on would be a loop.
    #[error("it was made to the sidecar's own port {0}, not captured")]
    NotCaptured(SocketAddr),
}

/// The destination as the caller, who is at `from`, dialled it. Each of our
/// listeners takes one family of addresses.
///
/// # Errors
/// When the connection was not captured.
pub fn original_destination(stream: &TcpStream, from: SocketAddr) -> Result<SocketAddr, OriginalError> {
    let socket = SockRef::from(stream);
    let found = if from.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    let found = match found {
        Ok(address) => address
            .as_socket()
            .ok_or_else(|| io::Error::other("not an IP address"))?,
        // The kernel tracks no connection here, so nothing was captured.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OriginalError::NotCaptured(stream.local_addr()?));
        }
        Err(error) => return Err(error.into()),
    };
    // An IPv6 answer carries flow and scope, which no directory knows.
    let found = SocketAddr::new(found.ip().to_canonical(), found.port());
    // Only then can it be the address that this end has.
    let may_be_here = is_own_port(found.port());
    if may_be_here && found == stream.local_addr()? {
        return Err(OriginalError::NotCaptured(found));
    }
    Ok(found)
}

/// Ports of the sidecar, to which it never dials an app. The canary's is not
/// among them: what is captured on it has an answer of its own.
pub fn is_own_port(port: u16) -> bool {
    [OUTBOUND_PORT, INBOUND_PORT, HEALTH_PORT].contains(&port)
}

/// Whether an address belongs to this network namespace and is not loopback:
/// what inbound may dial.
///
/// # Errors
/// When the kernel's list can't be read.
pub fn is_local(address: IpAddr) -> io::Result<bool> {
    if address.is_loopback() || address.is_unspecified() {
        return Ok(false);
    }
    let mut interfaces = getifaddrs()?;
    Ok(interfaces.any(|interface| {
        interface.address.is_some_and(|found| {
            let ipv4 = found.as_sockaddr_in().map(|found| IpAddr::from(found.ip()));
            let ipv6 = found.as_sockaddr_in6().map(|found| IpAddr::from(found.ip()));
            ipv4.or(ipv6) == Some(address)
        })
    }))
}
