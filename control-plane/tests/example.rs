//! The example in deploy/ is a good file, and names every key there is.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use watchword_control_plane::mesh_file::{MeshFile, PeerKind};

const EXAMPLE: &str = include_str!("../../deploy/control-plane.yaml");

#[test]
fn the_example_is_read_whole() {
    let mesh = MeshFile::parse("control-plane.yaml", EXAMPLE, Path::new("/etc/watchword")).unwrap();
    assert_eq!(mesh.name, "production");
    assert_eq!(mesh.services.len(), 3);
    assert_eq!(mesh.services["far"].peer, PeerKind::Mtls);
    assert_eq!(
        mesh.services["orders"].id.to_string(),
        "spiffe://example.org/shop/orders"
    );
    assert_eq!(mesh.services["orders"].endpoints.len(), 3);
    assert_eq!(mesh.registry.len(), 2);
    assert_eq!(mesh.registry[1].agents, [mesh.registry[0].id.clone()]);
    assert_eq!(mesh.mesh_ranges.len(), 4);
    assert_eq!(mesh.egress.entries.len(), 1);
    assert_eq!(mesh.policies, [Path::new("/etc/watchword/policies")]);
    let bundles: Vec<_> = mesh.trust_bundles.values().collect();
    assert_eq!(bundles, [Path::new("/etc/watchword/partner.pem")]);
    assert_eq!(mesh.state_dir.as_deref(), Some(Path::new("/var/lib/watchword")));
    assert_eq!(mesh.run_dir.as_deref(), Some(Path::new("/run/watchword")));
    assert!(mesh.listen.is_some() && mesh.health_listen.is_some());
}
