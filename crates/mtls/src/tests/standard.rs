//! Paths as RFC 5280, section 6, and the SPIFFE standards want them validated
//! (X509-SVID, sections 4.2 and 5; Trust Domain and Bundle, sections 3 and 6).

use rcgen::{CustomExtension, GeneralSubtree, NameConstraints};

use super::*;

/// Bytes of a name constraint on URIs (RFC 5280, section 4.2.1.10), of which
/// rcgen knows nothing: `kind` is 0xa0 for permitted, 0xa1 for excluded hosts.
fn uri_constraint(kind: u8, host: &str) -> CustomExtension {
    let length = |more: usize| u8::try_from(host.len() + more).unwrap();
    let head = [0x30, length(6), kind, length(4), 0x30, length(2), 0x86, length(0)];
    let der = [&head[..], host.as_bytes()].concat();
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], der);
    extension.set_criticality(true);
    extension
}

fn unknown_extension(is_critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 32473, 1], vec![5, 0]);
    extension.set_criticality(is_critical);
    extension
}

/// The label of what is wrong with a chain, both ways.
fn judge(bundle: &Bundle, chain: &[CertificateDer<'static>]) -> &'static str {
    let [client, server] = [Usage::Client, Usage::Server].map(|usage| {
        let verified = verify_chain(chain.to_vec(), bundle, usage, noon());
        verified.map_or_else(|error| error.label(), |_| "good")
    });
    assert_eq!(client, server);
    client
}

/// A leaf below an intermediate below a root.
fn chain(
    root: &Authority,
    change: impl FnOnce(&mut CertificateParams),
    change_leaf: impl FnOnce(&mut CertificateParams),
) -> Vec<CertificateDer<'static>> {
    let intermediate = root.intermediate(change);
    let (mut chain, _) = intermediate.leaf_with(WEB, change_leaf);
    chain.push(intermediate.certificate);
    chain
}

#[test]
fn a_path_is_validated_as_the_internet_profile_says() {
    type Change = fn(&mut CertificateParams);
    let nothing: Change = |_| {};
    let table: &[(Change, Change, &str)] = &[
        (nothing, nothing, "good"),
        (nothing, |p| p.not_after = (noon() - HOUR / 2).into(), "expired"),
        (|p| p.not_after = (noon() - HOUR / 2).into(), nothing, "expired"),
        (|p| p.not_before = (noon() + HOUR).into(), nothing, "not-yet-valid"),
        (|p| p.is_ca = IsCa::ExplicitNoCa, nothing, "untrusted-issuer"),
        (|p| p.is_ca = IsCa::NoCa, nothing, "untrusted-issuer"),
        (
            |p| p.key_usages = vec![KeyUsagePurpose::CrlSign],
            nothing,
            "issuer-may-not-sign",
        ),
        // What is critical must be understood.
        (
            nothing,
            |p| p.custom_extensions.push(unknown_extension(true)),
            "untrusted-issuer",
        ),
        (
            |p| p.custom_extensions.push(unknown_extension(true)),
            nothing,
            "untrusted-issuer",
        ),
        (nothing, |p| p.custom_extensions.push(unknown_extension(false)), "good"),
        // Names of other kinds are the standard's to leave alone, RFC 5280's to constrain.
        (
            |p| {
                p.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![GeneralSubtree::DnsName("example.org".into())],
                    excluded_subtrees: Vec::new(),
                })
            },
            |p| {
                p.subject_alt_names
                    .push(SanType::DnsName("web.example.com".try_into().unwrap()))
            },
            "untrusted-issuer",
        ),
    ];
    let root = Authority::new("root");
    for (row, (issuer, leaf, expected)) in table.iter().enumerate() {
        assert_eq!(
            judge(&root.bundle(), &chain(&root, issuer, leaf)),
            *expected,
            "row {row}"
        );
    }
}

#[test]
fn a_chain_is_whole_in_order_and_untouched() {
    let root = Authority::new("root");
    let good = chain(&root, |_| {}, |_| {});
    assert_eq!(judge(&root.bundle(), &good), "good");
    assert_eq!(judge(&root.bundle(), &good[..1]), "untrusted-issuer");
    // An authority is never who it vouches for.
    let turned: Vec<_> = good.iter().rev().cloned().collect();
    assert_eq!(judge(&root.bundle(), &turned), "no-uri-san");
    for index in [0, 1] {
        let mut touched = good.clone();
        let mut der = touched[index].to_vec();
        *der.last_mut().unwrap() ^= 1;
        touched[index] = der.into();
        assert_eq!(
            judge(&root.bundle(), &touched),
            "untrusted-issuer",
            "certificate {index}"
        );
    }
}

#[test]
fn an_intermediate_signs_no_deeper_than_it_may() {
    let root = Authority::new("root");
    for (path_length, expected) in [(0, "untrusted-issuer"), (1, "good")] {
        let first = root.intermediate(|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
            params.distinguished_name.push(DnType::OrganizationName, "first");
        });
        let second = first.intermediate(|_| {});
        let (mut chain, _) = second.leaf(WEB);
        chain.extend([second.certificate, first.certificate]);
        assert_eq!(judge(&root.bundle(), &chain), expected, "{path_length}");
    }
}

/// We can't check them, so we refuse what has them: to overlook a constraint
/// would be worse. A CA that is to work with us has none.
#[test]
fn constraints_on_uris_are_never_overlooked() {
    let constraints = [
        (0xa0, "partner.example"),
        (0xa0, "example.org"),
        (0xa1, "example.org"),
        (0xa1, "partner.example"),
    ];
    for (kind, host) in constraints {
        let constrained = |params: &mut CertificateParams| {
            params.custom_extensions.push(uri_constraint(kind, host));
        };
        let root = Authority::new("root");
        assert_eq!(
            judge(&root.bundle(), &chain(&root, constrained, |_| {})),
            "untrusted-issuer"
        );
        let root = Authority::with("root", constrained);
        assert_eq!(judge(&root.bundle(), &chain(&root, |_| {}, |_| {})), "untrusted-issuer");
    }
}

#[test]
fn a_root_vouches_for_ids_of_its_own_trust_domain_alone() {
    let (ours, partner, shared) = (
        Authority::new("ours"),
        Authority::new("partner"),
        Authority::new("shared"),
    );
    let of = |authorities: [&Authority; 2]| authorities.map(|authority| authority.certificate.clone()).to_vec();
    let bundle = Bundle::new(domain("example.org"), of([&ours, &shared]))
        .unwrap()
        .with(domain("partner.example"), of([&partner, &shared]))
        .unwrap();
    let foreign = "spiffe://partner.example/front";
    let table = [
        (&ours, WEB, "good"),
        (&partner, foreign, "good"),
        (&partner, WEB, "untrusted-issuer"),
        (&ours, foreign, "untrusted-issuer"),
        // A root of two trust domains vouches in both, since both say so.
        (&shared, WEB, "good"),
        (&shared, foreign, "good"),
        (&shared, "spiffe://third.example/web", "unknown-trust-domain"),
        (&ours, "spiffe://sub.example.org/web", "unknown-trust-domain"),
    ];
    for (authority, id, expected) in table {
        assert_eq!(judge(&bundle, &authority.leaf(id).0), expected, "{id}");
    }
}

/// A CA certificate, also one that is a root, opens no connection.
#[test]
fn who_signs_authenticates_nobody() {
    let id = |params: &mut CertificateParams| params.subject_alt_names = vec![SanType::URI(WEB.try_into().unwrap())];
    let root = Authority::with("root", |params| {
        id(params);
        params.key_usages.push(KeyUsagePurpose::DigitalSignature);
    });
    assert_eq!(
        judge(&root.bundle(), std::slice::from_ref(&root.certificate)),
        "leaf-is-ca"
    );
    let below = root.intermediate(id);
    assert_eq!(judge(&root.bundle(), &[below.certificate]), "leaf-is-ca");
}

#[tokio::test]
async fn who_has_no_key_to_the_certificate_that_it_shows_is_refused() {
    let root = Authority::new("root");
    let orders = credentials(&root.leaf(ORDERS), root.bundle()).current().unwrap();
    let stolen = (root.leaf(WEB).0, root.leaf(WEB).1);
    let (_, server) = shake(&reckless(&stolen, &root), &orders, ORDERS).await;
    assert_eq!(server.map(|_| ()).unwrap_err().label(), "tls");
    let stolen = (root.leaf(ORDERS).0, root.leaf(ORDERS).1);
    let web = credentials(&root.leaf(WEB), root.bundle()).current().unwrap();
    let (client, _) = shake(&web, &reckless(&stolen, &root), ORDERS).await;
    assert_eq!(client.map(|_| ()).unwrap_err().label(), "tls");
}

#[tokio::test]
async fn the_longest_id_is_good_for_both_sides_of_a_handshake() {
    let root = Authority::new("root");
    let long = |letter: &str| format!("spiffe://example.org/{}", letter.repeat(2048 - 21));
    let (web, orders) = (long("w"), long("o"));
    let generation = |id: &str| credentials(&root.leaf(id), root.bundle()).current().unwrap();
    let (client, server) = shake(&generation(&web), &generation(&orders), &orders).await;
    let ((_, orders_seen), (_, web_seen)) = (client.unwrap(), server.unwrap());
    assert_eq!((orders_seen.id(), web_seen.id()), (&id(&orders), &id(&web)));
}
