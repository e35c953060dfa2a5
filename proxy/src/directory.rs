//! The directory, indexed by what an app dials.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _, HashSet};
use ipnet::IpNet;
use watchword_identity::SpiffeId;
use watchword_proto::directory::{Directory, Egress, PeerKind, Protocol};

/// One place to call, and who must answer there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) id: Arc<SpiffeId>,
    /// As text, which each call needs.
    pub(crate) id_text: Arc<str>,
    pub(crate) service: Arc<str>,
    pub(crate) protocol: Protocol,
    pub(crate) peer: PeerKind,
}

/// Who serves an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// At least one. Those of the address's family come first.
    pub(crate) endpoints: Arc<[Endpoint]>,
    /// The address as text, which each call tells.
    pub(crate) address_text: Arc<str>,
}

impl Served {
    fn new(address: SocketAddr, endpoints: Vec<Endpoint>) -> Self {
        Self {
            endpoints: endpoints.into(),
            address_text: address.to_string().into(),
        }
    }
}

/// What the directory says of an address that an app dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    Served(&'a Served),
    /// The service is known, and nothing of it serves this port.
    PortNotDeclared,
    /// One of the mesh's own addresses, but nobody's now.
    Unlisted,
    /// Not the mesh's.
    Outside,
}

/// Answers in constant time but for the few ranges.
#[derive(Debug, Default)]
pub(crate) struct DirectoryIndex {
    by_address: HashMap<SocketAddr, Served>,
    known: HashSet<IpAddr>,
    mesh_ranges: Vec<IpNet>,
    egress: Egress,
    services: usize,
}

impl DirectoryIndex {
    pub(crate) fn new(directory: &Directory) -> Self {
        let mut index = Self {
            mesh_ranges: directory.mesh_ranges.clone(),
            egress: directory.egress.clone(),
            services: directory.services.len(),
            ..Self::default()
        };
        let mut owners: HashMap<SocketAddr, Vec<Endpoint>> = HashMap::new();
        for service in &directory.services {
            let name: Arc<str> = service.name.as_str().into();
            index.known.extend(&service.virtual_addresses);
            let mut by_port: HashMap<u16, Vec<Endpoint>> = HashMap::new();
            for endpoint in &service.endpoints {
                let (id, id_text) = (Arc::new(endpoint.id.clone()), endpoint.id.to_string().into());
                index.known.insert(endpoint.address);
                for &port in &endpoint.ports {
                    let protocol = service.ports.get(&port).copied().unwrap_or(Protocol::Tcp);
                    let address = SocketAddr::new(endpoint.address, port);
                    let endpoint = Endpoint {
                        address,
                        id: Arc::clone(&id),
                        id_text: Arc::clone(&id_text),
                        service: Arc::clone(&name),
                        protocol,
                        peer: service.peer,
                    };
                    owners.entry(address).or_default().push(endpoint.clone());
                    by_port.entry(port).or_default().push(endpoint);
                }
            }
            index.add_virtual(&service.virtual_addresses, &by_port);
        }
        for (address, owners) in owners {
            // An address that two services claim has no identity.
            if let [_] = owners[..] {
                index.by_address.insert(address, Served::new(address, owners));
            }
        }
        index
    }

    /// A virtual address stands for all endpoints, those of its own family
    /// first: a call by IPv6 stays one where the app listens there, and finds
    /// an app that listens on IPv4 alone as well.
    fn add_virtual(&mut self, addresses: &[IpAddr], by_port: &HashMap<u16, Vec<Endpoint>>) {
        for &address in addresses {
            for (&port, endpoints) in by_port {
                let mut endpoints = endpoints.clone();
                endpoints.sort_by_key(|endpoint| endpoint.address.is_ipv4() != address.is_ipv4());
                let address = SocketAddr::new(address, port);
                self.by_address.insert(address, Served::new(address, endpoints));
            }
        }
    }

    pub(crate) fn find(&self, dialled: SocketAddr) -> Found<'_> {
        if let Some(served) = self.by_address.get(&dialled) {
            return Found::Served(served);
        }
        if self.known.contains(&dialled.ip()) {
            return Found::PortNotDeclared;
        }
        if self.mesh_ranges.iter().any(|range| range.contains(&dialled.ip())) {
            return Found::Unlisted;
        }
        Found::Outside
    }

    /// Whether this endpoint is listed, with this identity.
    pub(crate) fn expects(&self, address: SocketAddr, id: &SpiffeId) -> bool {
        let served = self.by_address.get(&address);
        served.is_some_and(|served| matches!(&served.endpoints[..], [only] if *only.id == *id))
    }

    /// Whether the address is one of the mesh's workloads or services.
    pub(crate) fn knows(&self, address: IpAddr) -> bool {
        self.known.contains(&address.to_canonical())
    }

    /// Whether anything is listed there.
    pub(crate) fn has(&self, address: SocketAddr) -> bool {
        self.by_address.contains_key(&address)
    }

    /// What may be called of what is outside.
    pub(crate) fn egress(&self) -> &Egress {
        &self.egress
    }

    pub(crate) fn service_count(&self) -> usize {
        self.services
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::collections::BTreeMap;

    use watchword_proto::directory::{Endpoint as Listed, Service};

    use super::*;

    fn service(name: &str, virtual_address: &str, endpoints: &[&str]) -> Service {
        Service {
            name: name.into(),
            virtual_addresses: vec![virtual_address.parse().unwrap()],
            ports: BTreeMap::from([(8080, Protocol::Http)]),
            endpoints: endpoints
                .iter()
                .map(|address| Listed {
                    address: address.parse().unwrap(),
                    ports: vec![8080],
                    id: SpiffeId::new(format!("spiffe://example.org/{name}")).unwrap(),
                })
                .collect(),
            peer: PeerKind::Watchword,
        }
    }

    fn index() -> DirectoryIndex {
        DirectoryIndex::new(&Directory {
            services: vec![
                service("orders", "240.0.0.1", &["10.87.0.2", "10.87.0.3", "fd87::2"]),
                service("web", "fd77::2", &["10.87.0.4", "fd87::4"]),
                service("claims-it-too", "240.0.0.9", &["10.87.0.4"]),
            ],
            mesh_ranges: vec!["10.87.0.0/16".parse().unwrap(), "240.0.0.0/16".parse().unwrap()],
            egress: Egress::default(),
        })
    }

    fn endpoints(dialled: &str) -> Vec<String> {
        match index().find(dialled.parse().unwrap()) {
            Found::Served(served) => {
                assert_eq!(*served.address_text, *dialled);
                let found = served.endpoints.iter();
                found.map(|endpoint| endpoint.address.to_string()).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_virtual_address_stands_for_all_endpoints_those_of_its_family_first() {
        assert_eq!(
            endpoints("240.0.0.1:8080"),
            ["10.87.0.2:8080", "10.87.0.3:8080", "[fd87::2]:8080"]
        );
        assert_eq!(endpoints("[fd77::2]:8080"), ["[fd87::4]:8080", "10.87.0.4:8080"]);
    }

    #[test]
    fn an_endpoint_is_itself() {
        assert_eq!(endpoints("10.87.0.3:8080"), ["10.87.0.3:8080"]);
    }

    #[test]
    fn what_is_not_listed_is_told_apart() {
        let index = index();
        let find = |dialled: &str| index.find(dialled.parse().unwrap());
        assert_eq!(find("240.0.0.1:9999"), Found::PortNotDeclared);
        assert_eq!(find("10.87.0.77:8080"), Found::Unlisted);
        assert_eq!(find("192.0.2.1:8080"), Found::Outside);
    }

    #[test]
    fn an_address_that_two_services_claim_has_no_identity() {
        assert_eq!(index().find("10.87.0.4:8080".parse().unwrap()), Found::PortNotDeclared);
    }
}
