//! Which addresses a mesh on one machine uses. Pure.
//!
//! All of them live in namespaces of the mesh's own, so they collide with
//! nothing outside, and every mesh may use the same ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The switch's own IPv4 address, through which default routes go.
pub(crate) const SWITCH_V4: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 1);
/// The switch's own IPv6 address, in a unique local range (RFC 4193).
pub(crate) const SWITCH_V6: Ipv6Addr = Ipv6Addr::new(0xfd87, 0, 0, 0, 0, 0, 0, 1);
/// Prefix length of the replicas' IPv4 network.
pub(crate) const PREFIX_V4: u8 = 16;
/// Prefix length of the replicas' IPv6 network.
pub(crate) const PREFIX_V6: u8 = 64;
/// A Linux bridge has 1,024 ports.
pub(crate) const MAX_REPLICAS: usize = 1_000;

/// Ranges whose addresses belong to the mesh: replicas and virtual addresses.
pub(crate) fn mesh_ranges(ipv6: bool) -> Vec<String> {
    let mut ranges = vec!["10.87.0.0/16".to_owned(), "240.0.0.0/16".to_owned()];
    if ipv6 {
        ranges.extend(["fd87::/64".to_owned(), "fd77::/64".to_owned()]);
    }
    ranges
}

/// The addresses of the replica with this number, counted over the whole mesh
/// from 0; IPv4 first.
pub(crate) fn replica(index: u16, ipv6: bool) -> Vec<IpAddr> {
    pair(SWITCH_V4, SWITCH_V6, index, ipv6)
}

/// The addresses that stand for the service with this number, from 0.
pub(crate) fn virtual_service(index: u16, ipv6: bool) -> Vec<IpAddr> {
    let (v4, v6) = (Ipv4Addr::new(240, 0, 0, 0), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0));
    pair(v4, v6, index, ipv6)
}

/// The addresses that follow `v4` and `v6` after `index` others.
fn pair(v4: Ipv4Addr, v6: Ipv6Addr, index: u16, ipv6: bool) -> Vec<IpAddr> {
    let offset = u32::from(index) + 1;
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() + offset))];
    if ipv6 {
        addresses.push(IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() + u128::from(offset))));
    }
    addresses
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_first_ones_are_the_ones_people_see() {
        let text = |addresses: Vec<IpAddr>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(replica(0, true)), ["10.87.0.2", "fd87::2"]);
        assert_eq!(text(virtual_service(0, true)), ["240.0.0.1", "fd77::1"]);
        assert_eq!(text(replica(0, false)), ["10.87.0.2"]);
        assert_eq!(text(replica(300, true)), ["10.87.1.46", "fd87::12e"]);
    }

    #[test]
    fn no_two_are_the_same_and_all_lie_in_the_ranges() {
        let mut seen = HashSet::from([IpAddr::V4(SWITCH_V4), IpAddr::V6(SWITCH_V6)]);
        for index in 0..u16::try_from(MAX_REPLICAS).unwrap() {
            for address in replica(index, true).into_iter().chain(virtual_service(index, true)) {
                assert!(seen.insert(address), "{address} twice");
                let inside = match address {
                    IpAddr::V4(v4) => matches!(v4.octets(), [10, 87, ..] | [240, 0, ..]),
                    IpAddr::V6(v6) => matches!(v6.segments(), [0xfd87 | 0xfd77, 0, 0, 0, ..]),
                };
                assert!(inside, "{address}");
            }
        }
        assert_eq!(mesh_ranges(true).len(), 4);
        assert_eq!(mesh_ranges(false).len(), 2);
    }
}
