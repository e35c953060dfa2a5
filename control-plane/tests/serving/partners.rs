//! Other trust domains: proxies are told their roots, and the control plane
//! itself goes by none of them.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::PrivateKeyDer;
use tonic::Request;
use watchword_control_plane::{LoadedMesh, MeshWatch};
use watchword_daemon::Clock;
use watchword_identity::{Bundle, Svid, TrustDomain};
use watchword_mtls::{Credentials, Now};
use watchword_proto::bundle_from_proto;
use watchword_proto::control::snapshot_update::Resource;
use watchword_proto::control::subscribe_request::Message;
use watchword_proto::control::{Ack, DiscoveryClient, IdentityClient, RenewRequest};

use crate::harness::{Key, MESH, Place, Plane, Subscriber, id, reason};

fn partner() -> TrustDomain {
    TrustDomain::new("partner.example").unwrap()
}

/// What signs in `partner.example`.
struct Foreign(CertifiedIssuer<'static, KeyPair>);

impl Foreign {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn bundle(&self) -> Bundle {
        Bundle::new(partner(), vec![self.0.der().clone()]).unwrap()
    }

    /// Credentials of `id`, which trust the control plane; they believe
    /// themselves, whatever the control plane does.
    fn credentials(&self, id: &str, place: &Place, plane: &Plane) -> Credentials {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![rcgen::SanType::URI(id.try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let svid = Svid::from_chain(vec![leaf.der().clone()]).unwrap();
        let own = TrustDomain::new("example.org").unwrap();
        let roots = plane
            .bundle()
            .roots(&own)
            .iter()
            .map(|root| root.certificate().clone())
            .collect();
        let roots: Vec<_> = [roots, vec![self.0.der().clone()]].concat();
        let trusted = Bundle::new(own, roots).unwrap().with_others(&self.bundle());
        let clock: Arc<dyn Clock> = place.clock.clone();
        let credentials = Credentials::new(Now::new(move || clock.now()));
        credentials.publish(&svid, &PrivateKeyDer::from(key), trusted).unwrap();
        credentials
    }
}

/// The mesh of the other tests, which knows `partner.example`, in a folder.
fn write(folder: &Path, partner: &str) {
    std::fs::write(folder.join("partner.pem"), partner).unwrap();
    let mesh = format!(
        "{{\"trustBundles\": {{\"partner.example\": \"partner.pem\"}}, {}",
        &MESH[1..]
    );
    std::fs::write(folder.join("mesh.yaml"), mesh).unwrap();
}

async fn start(place: &Place, folder: &Path) -> Plane {
    let (loaded, watch) = MeshWatch::load(&folder.join("mesh.yaml")).unwrap();
    let mesh = place.placed(loaded.mesh.clone());
    place
        .start_with(LoadedMesh { mesh, ..loaded }, Some(watch))
        .await
        .unwrap()
}

#[tokio::test]
async fn nobody_of_another_trust_domain_renews_subscribes_or_attests() {
    let (place, folder, foreign) = (Place::new(), tempfile::tempdir().unwrap(), Foreign::new());
    write(folder.path(), &foreign.0.pem());
    let plane = start(&place, folder.path()).await;
    let control_plane = id("/watchword/control-plane");
    // One as itself, and one as a workload of ours.
    for (caller, refused) in [
        ("spiffe://partner.example/web", "unknown-trust-domain"),
        ("spiffe://example.org/web", "untrusted-issuer"),
    ] {
        let credentials = foreign.credentials(caller, &place, &plane);
        let client = || credentials.control_client().unwrap();
        // In TLS 1.3 a client may learn of it with its first call only.
        if let Ok(channel) = plane.try_channel(client(), &control_plane).await {
            let csr = Key::new().csr("/web");
            IdentityClient::new(channel)
                .renew(RenewRequest { csr })
                .await
                .unwrap_err();
        }
        if let Ok(channel) = plane.try_channel(client(), &control_plane).await {
            let subscribed = DiscoveryClient::new(channel)
                .subscribe(Request::new(tokio_stream::empty()))
                .await;
            assert!(subscribed.is_err());
        }
        let metrics = plane.metrics();
        let count = format!("watchword_control_handshakes_total{{reason=\"{refused}\",result=\"failed\"}} 2");
        assert!(metrics.contains(&count), "{count} is missing in\n{metrics}");
    }
    let token = plane.token("/web").await.unwrap();
    let csr = Key::new().csr_with("/web", |params| {
        let id = "spiffe://partner.example/web".try_into().unwrap();
        params.subject_alt_names = vec![rcgen::SanType::URI(id)];
    });
    let refused = plane.attest(csr, &token).await.unwrap_err();
    assert_eq!(reason(&refused), "id-of-other-trust-domain");
}

/// The next bundle that a proxy is told and acknowledges, with its version.
async fn next_bundle(subscriber: &mut Subscriber) -> (Bundle, u64) {
    loop {
        let update = subscriber.next().await;
        if let Some(Resource::Bundle(bundle)) = update.resource {
            subscriber.send(Message::Ack(Ack { nonce: update.nonce })).await;
            return (bundle_from_proto(bundle).unwrap(), update.version);
        }
    }
}

#[tokio::test]
async fn proxies_are_told_of_other_trust_domains_while_bundle_pem_has_the_own_roots_alone() {
    let (place, folder, foreign) = (Place::new(), tempfile::tempdir().unwrap(), Foreign::new());
    let folder = folder.path();
    write(folder, &foreign.0.pem());
    let plane = start(&place, folder).await;
    let own = plane.bundle();
    let workload = plane.workload("/web").await;
    assert_eq!(workload.bundle(), own.clone().with_others(&foreign.bundle()));
    let mut subscriber = plane.subscribe(&workload).await.unwrap();
    subscriber.hello().await;
    assert_eq!(next_bundle(&mut subscriber).await, (workload.bundle(), 1));
    let next = Foreign::new();
    write(folder, &next.0.pem());
    assert_eq!(
        next_bundle(&mut subscriber).await,
        (own.clone().with_others(&next.bundle()), 2)
    );
    // What is bad changes nothing: the next news is what comes after it.
    write(folder, "nothing");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(
        plane.workload("/batch").await.bundle(),
        own.clone().with_others(&next.bundle())
    );
    std::fs::write(folder.join("mesh.yaml"), MESH).unwrap();
    assert_eq!(next_bundle(&mut subscriber).await, (own.clone(), 3));
    assert_eq!(plane.bundle(), own);
    plane.renew(&workload, Key::new().csr("/web")).await.unwrap();
}
