//! What is captured, and how the sidecar's own connections are told apart.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

/// The uid that the sidecar runs under where it has one of its own.
pub const PROXY_UID: u32 = 1337;
/// The mark on the sidecar's own packets: "WW" and a number.
pub const PROXY_MARK: u32 = 0x5757_0001;
/// The mark on what goes to the app from its caller's address, and on the
/// app's answers. Neither this nor [`LOCAL_MARK`] lets anything leave the
/// namespace: an accepted socket has its caller's mark, and is the app's.
pub const APP_MARK: u32 = 0x5757_0002;
/// The mark on what goes to the app from an address of this namespace.
pub const LOCAL_MARK: u32 = 0x5757_0003;

/// What to capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Interception {
    /// Which of a network namespace's connections are captured.
    pub scope: Option<Scope>,
    /// How the sidecar's own connections are told from the app's.
    #[serde(default)]
    pub loop_protection: LoopProtection,
    /// The app's ports that stay as they are.
    #[serde(default)]
    pub exclude_inbound_ports: Vec<u16>,
    /// Remote ports that are reached directly.
    #[serde(default)]
    pub exclude_outbound_ports: Vec<u16>,
    /// Remote addresses that are reached directly.
    #[serde(default)]
    pub exclude_outbound_ranges: Vec<IpNet>,
    /// Where the app sees calls come from; by default what `loop_protection`
    /// can have.
    pub dial_from: Option<DialFrom>,
    /// By which families somebody outside dials port 15099 each minute: while
    /// nobody does, the sidecar is not ready.
    #[serde(default)]
    pub canary: Vec<Family>,
}

impl Interception {
    /// Where the app sees calls come from.
    pub fn dial_from(&self) -> DialFrom {
        self.dial_from.unwrap_or(match self.loop_protection {
            LoopProtection::Mark => DialFrom::Client,
            LoopProtection::Uid => DialFrom::Reserved,
        })
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// Where the app sees calls come from (docs/decisions/0007-dialling-the-app.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DialFrom {
    /// The caller's address, as without us: needs CAP_NET_ADMIN at run time.
    Client,
    /// Addresses that nobody has: neither loopback nor the workload's own.
    Reserved,
    /// The workload's own address.
    Own,
}

/// Which of a network namespace's connections are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// All: the namespace is the workload's alone, as in a pod.
    Namespace,
}

/// How the sidecar's own connections are told from the app's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LoopProtection {
    /// By the uid that it runs under.
    #[default]
    Uid,
    /// By a mark on its packets: where there is only one uid, or where the
    /// app might run under any.
    Mark,
}
