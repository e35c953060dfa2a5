//! The helper that dials what is outside for sidecars whose networks have no
//! way there: `watchword up` runs it in the caller's own network, and sidecars
//! reach it by a Unix socket that apps do not see.
//!
//! A sidecar says where to (an IPv6 address, or an IPv4 one mapped into that,
//! and a port) and is told 0, -1 for denied, or the system's error number; then
//! come chunks.
//! Invariants: the helper asks its own copy of the list, whatever a sidecar
//! thinks; it never hands out a socket of its network, only bytes.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use ipnet::IpNet;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use watchword_proto::directory::Egress;

use super::chunks::Chunks;
use super::{Unreached, judge};
use crate::carry::{dial, serve};
use crate::relay::both_ways;

const DENIED: i32 = -1;
/// For a sidecar to say where to.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// A little longer than the helper's own for dialling.
const ANSWER_DEADLINE: Duration = Duration::from_secs(12);

/// What may be called; the same list that the control plane gives sidecars.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct List {
    egress: Egress,
    mesh_ranges: Vec<IpNet>,
}

impl List {
    fn allows(&self, to: SocketAddr) -> bool {
        let is_ours = self.mesh_ranges.iter().any(|range| range.contains(&to.ip()));
        !is_ours && judge(&self.egress, to).is_some()
    }
}

/// Serves the listening Unix socket that is standard input, until it is killed.
///
/// # Errors
/// When it can't start.
pub fn run(config: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(config).with_context(|| config.display().to_string())?;
    let list: &List = Box::leak(Box::new(
        serde_saphyr::from_str(&text).with_context(|| config.display().to_string())?,
    ));
    serve::<UnixListener, _>(move |sidecar| answer(list, sidecar))
}

async fn answer(list: &List, mut sidecar: UnixStream) {
    let Ok(Ok(to)) = timeout(ASK_DEADLINE, read_address(&mut sidecar)).await else {
        return;
    };
    if !list.allows(to) {
        tracing::warn!(%to, "a sidecar asked for what its list denies");
        return drop(sidecar.write_i32(DENIED).await);
    }
    let mut outside = match dial(to).await {
        Ok(outside) => outside,
        Err(error) => {
            let number = error.raw_os_error().unwrap_or(nix::libc::EIO);
            return drop(sidecar.write_i32(number).await);
        }
    };
    if sidecar.write_i32(0).await.is_ok() {
        let _ = both_ways(&mut Chunks::new(sidecar), Vec::new(), &mut outside).await;
    }
}

async fn read_address(sidecar: &mut UnixStream) -> io::Result<SocketAddr> {
    let address = Ipv6Addr::from_bits(sidecar.read_u128().await?).to_canonical();
    Ok(SocketAddr::new(address, sidecar.read_u16().await?))
}

/// Asks the helper behind `socket` for a connection.
pub(super) async fn connect(socket: &Path, to: SocketAddr) -> Result<Chunks, Unreached> {
    let ask = async {
        let mut helper = UnixStream::connect(socket).await?;
        let address = match to.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        helper.write_u128(address.to_bits()).await?;
        helper.write_u16(to.port()).await?;
        let answer = helper.read_i32().await?;
        Ok((helper, answer))
    };
    let asked = timeout(ANSWER_DEADLINE, ask)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    match asked.map_err(Unreached::NoHelper)? {
        (helper, 0) => Ok(Chunks::new(helper)),
        (_, DENIED) => Err(Unreached::Denied),
        (_, number) => Err(Unreached::Network(io::Error::from_raw_os_error(number))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_helper_denies_the_meshs_own_addresses_whatever_the_mode() {
        let list: List = serde_saphyr::from_str(
            r#"{"egress": {"mode": "allow", "entries": []}, "meshRanges": ["10.87.0.0/16", "fd87::/64"]}"#,
        )
        .unwrap();
        let allows = |to: &str| list.allows(to.parse().unwrap());
        assert!(allows("192.0.2.1:80"));
        assert!(!allows("10.87.0.2:80"));
        assert!(!allows("[fd87::2]:80"));
        assert!(!allows("169.254.169.254:80"));
    }

    #[tokio::test]
    async fn who_asks_for_what_is_denied_is_told_so_and_who_says_nothing_is_sent_away() {
        let list: &List = Box::leak(Box::new(
            serde_saphyr::from_str(r#"{"egress": {"mode": "deny", "entries": []}, "meshRanges": []}"#).unwrap(),
        ));
        let (mut sidecar, helper) = UnixStream::pair().unwrap();
        let answering = tokio::spawn(answer(list, helper));
        let to: Ipv6Addr = "2001:db8::1".parse().unwrap();
        sidecar.write_u128(to.to_bits()).await.unwrap();
        sidecar.write_u16(80).await.unwrap();
        assert_eq!(sidecar.read_i32().await.unwrap(), DENIED);
        answering.await.unwrap();
        let (sidecar, helper) = UnixStream::pair().unwrap();
        drop(sidecar);
        answer(list, helper).await;
    }
}
