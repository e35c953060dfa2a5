//! What the services of a mesh must not have in common.
//!
//! An address that two services claimed would have no identity, and a name
//! that meant two things would be resolved to one of them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use watchword_policy::diagnostic::{Position, Report};

use super::Service;

/// A service, and where what others could claim too stands.
#[derive(Debug)]
pub(super) struct PlacedService {
    pub(super) service: Service,
    pub(super) name_at: Position,
    pub(super) directory_at: Option<Position>,
    /// Index by index as in the service.
    pub(super) endpoints_at: Vec<Position>,
    pub(super) addresses_at: Vec<Position>,
    pub(super) virtual_addresses_at: Vec<Position>,
    pub(super) publish_at: Vec<(SocketAddr, Position)>,
}

/// Reports what two services claim.
pub(super) fn check<'s>(services: impl Iterator<Item = &'s PlacedService> + Clone, report: &mut Report) {
    check_names(services.clone(), report);
    check_addresses(services.clone(), report);
    check_published(services, report);
}

/// One socket listens at an address. One for all addresses takes its port from
/// the others.
fn check_published<'s>(services: impl Iterator<Item = &'s PlacedService>, report: &mut Report) {
    let mut taken: Vec<(SocketAddr, &str)> = Vec::new();
    for placed in services {
        for (listen, at) in &placed.publish_at {
            let collides = |other: &SocketAddr| {
                let any = other.ip().is_unspecified() || listen.ip().is_unspecified();
                other.port() == listen.port() && (any || other.ip() == listen.ip())
            };
            if let Some((other, service)) = taken.iter().find(|(other, _)| collides(other)) {
                let message = format!("service `{service}` is published at {other} already: choose another port");
                report.error(*at, message);
            }
            taken.push((*listen, &placed.service.name));
        }
    }
}

/// `orders-2` is the second replica of `orders`, so no service may be named so.
fn check_names<'s>(services: impl Iterator<Item = &'s PlacedService> + Clone, report: &mut Report) {
    let places: HashMap<&str, Position> = services
        .clone()
        .map(|placed| (placed.service.name.as_str(), placed.name_at))
        .collect();
    for placed in services.filter(|placed| placed.service.run.is_some()) {
        let name = &placed.service.name;
        for number in 1..=placed.service.replicas {
            let replica = format!("{name}-{number}");
            if let Some(at) = places.get(replica.as_str()) {
                let message = format!("`{replica}` names replica {number} of service `{name}`: rename one of the two");
                report.error(*at, message);
            }
        }
    }
}

fn check_addresses<'s>(services: impl Iterator<Item = &'s PlacedService> + Clone, report: &mut Report) {
    let mut endpoints: HashMap<SocketAddr, &str> = HashMap::new();
    let mut machines: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for placed in services.clone() {
        let name = placed.service.name.as_str();
        for (address, at) in placed.service.endpoints.iter().zip(&placed.endpoints_at) {
            machines.insert(address.ip(), name);
            if let Some(other) = endpoints.insert(*address, name) {
                report.error(
                    *at,
                    format!("{address} is an endpoint of service `{other}` already: keep one"),
                );
            }
        }
    }
    for placed in services.clone() {
        let name = placed.service.name.as_str();
        for (address, at) in placed.service.addresses.iter().zip(&placed.addresses_at) {
            if let Some(other) = machines.insert(*address, name).filter(|other| *other != name) {
                let message = format!("{address} is an address of service `{other}` already: keep one");
                report.error(*at, message);
            }
        }
    }
    let mut virtual_addresses: HashMap<IpAddr, &str> = HashMap::new();
    for placed in services {
        let name = placed.service.name.as_str();
        for (address, at) in placed
            .service
            .virtual_addresses
            .iter()
            .zip(&placed.virtual_addresses_at)
        {
            if let Some(other) = virtual_addresses.insert(*address, name) {
                let message = format!("{address} is a virtual address of service `{other}` already: keep one");
                report.error(*at, message);
            }
            if let Some(other) = machines.get(address) {
                let message = format!("{address} is an address of service `{other}`, so it can't be a virtual address");
                report.error(*at, message);
            }
        }
    }
}
