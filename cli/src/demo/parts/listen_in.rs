//! Listens in on a network namespace, as an eavesdropper on the wire would
//! (packet(7)), and counts in how many frames markers stand in plain sight.

use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde::{Deserialize, Serialize};

use crate::say;

/// Larger than any frame, also one that the kernel has not cut into packets.
const MAX_FRAME: usize = 80 * 1024;
/// Kernel memory for frames that were not read yet.
const QUEUE: usize = 4 * 1024 * 1024;

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// All of it, headers too.
    pub(crate) bytes: u64,
    /// Frames that hold each marker, in the order in which they were given.
    pub(crate) marked: Vec<u64>,
}

/// Says `ready`, listens until standard input ends, and prints [`Seen`].
pub(crate) fn run(markers: &[String]) -> anyhow::Result<()> {
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .context("cannot listen in (a packet socket needs CAP_NET_RAW)")?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
    // More than net.core.rmem_max allows is not to be had by everybody.
    let _ = setsockopt(&socket, sockopt::RcvBuf, &QUEUE);
    let over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&over);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        ended.store(true, Ordering::Release);
    });
    say::out("ready")?;
    let mut seen = Seen {
        bytes: 0,
        marked: vec![0; markers.len()],
    };
    let mut frame = vec![0; MAX_FRAME];
    loop {
        // What came before the end is read, and no more is waited for.
        let is_over = over.load(Ordering::Acquire);
        let flags = match is_over {
            true => MsgFlags::MSG_DONTWAIT,
            false => MsgFlags::empty(),
        };
        match recv(socket.as_raw_fd(), &mut frame, flags) {
            Ok(length) => seen.note(frame.get(..length).unwrap_or_default(), markers),
            Err(Errno::EAGAIN) if is_over => break,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN | Errno::ENOBUFS) => {}
            Err(error) => return Err(error).context("cannot listen in any more"),
        }
    }
    say::out(serde_json::to_string(&seen)?)?;
    Ok(())
}

impl Seen {
    fn note(&mut self, frame: &[u8], markers: &[String]) {
        self.bytes += u64::try_from(frame.len()).unwrap_or(u64::MAX);
        for (count, marker) in self.marked.iter_mut().zip(markers) {
            let marker = marker.as_bytes();
            if !marker.is_empty() && frame.windows(marker.len()).any(|part| part == marker) {
                *count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_counts_once_for_each_frame_that_holds_it() {
        let mut seen = Seen {
            bytes: 0,
            marked: vec![0, 0],
        };
        let markers = ["abc".to_owned(), "zzz".to_owned()];
        for frame in [&b"..abc..abc"[..], b"ab", b"abc", b""] {
            seen.note(frame, &markers);
        }
        assert_eq!(
            seen,
            Seen {
                bytes: 15,
                marked: vec![2, 0]
            }
        );
    }
}
