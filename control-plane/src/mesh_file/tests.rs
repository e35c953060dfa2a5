#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::{Strategy, proptest};
use proptest::sample::select;
use spiffe::{SpiffeId, TrustDomain};

use super::{
    AuthorityChoice, CertificateFiles, Egress, EgressEntry, EgressMode, MeshFile, Mode, PeerKind, Protocol, VaultAuth,
    VaultSettings,
};
use crate::testing::{key, root};

const FULL: &str = "\
name: shop
trustDomain: example.org
mode: strict
certificates: {ttl: 1h30m}
authority: embedded
trustBundles: {partner.example: keys/partner.pem, second.example: /etc/second.pem}
policies: [policies, /etc/more.yaml]
egressMode: deny
egress: []
services:
  web:
    run: [python3, -m, http.server, 8080, 1.10]
    ports: {8080: http}
  orders:
    id: spiffe://example.org/team/orders
    run: [./orders]
    env: {PORT: 8080, DEBUG: true, NAME: x=y, EMPTY: ''}
    directory: services/orders
    ports: {8080: http, 5432: tcp, \"9090\": grpc}
    replicas: 2
    user: nobody
    publish: {}
    healthy: {port: 8080}
    peer: watchword
";

fn parse(text: &str) -> Result<MeshFile, Vec<String>> {
    let result = MeshFile::parse("/m/mesh.yaml", text, Path::new("/m"));
    result.map_err(|found| found.iter().map(ToString::to_string).collect())
}

fn errors(text: &str) -> Vec<String> {
    parse(text).expect_err("an error")
}

/// The only error of a file whose services (or last keys) are `tail`.
#[track_caller]
fn error(tail: &str) -> String {
    let found = errors(&format!("trustDomain: td\n{tail}"));
    assert_eq!(found.len(), 1, "{found:#?}");
    found[0].strip_prefix("/m/mesh.yaml:").expect("the file").to_owned()
}

/// The only error of a service with `run` and these other lines.
#[track_caller]
fn service_error(lines: &str) -> String {
    error(&format!("services:\n  a:\n    run: [x]\n    {lines}\n"))
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}

#[test]
fn a_mesh_is_strict_unless_it_says_otherwise() {
    for (line, mode) in [
        ("", Mode::Strict),
        ("mode: strict", Mode::Strict),
        ("mode: permissive", Mode::Permissive),
    ] {
        let mesh = parse(&format!("trustDomain: td\n{line}\nservices: {{}}\n")).unwrap();
        assert_eq!(mesh.mode, mode);
        assert_eq!(mesh.policy_context().mode, mode);
    }
}

#[test]
fn a_full_mesh_file_is_read_whole() {
    let mesh = parse(FULL).unwrap();
    assert_eq!(mesh.name, "shop");
    assert_eq!(mesh.trust_domain.as_str(), "example.org");
    assert_eq!(mesh.certificate_ttl, Duration::from_secs(5400));
    assert_eq!(mesh.policies, [Path::new("/m/policies"), Path::new("/etc/more.yaml")]);
    let partners = [
        ("partner.example", "/m/keys/partner.pem"),
        ("second.example", "/etc/second.pem"),
    ];
    let partners = partners.map(|(domain, file)| (TrustDomain::new(domain).unwrap(), PathBuf::from(file)));
    assert_eq!(mesh.trust_bundles, BTreeMap::from(partners));
    let web = &mesh.services["web"];
    assert_eq!((web.name.as_str(), &web.id), ("web", &id("spiffe://example.org/web")));
    let words = ["python3", "-m", "http.server", "8080", "1.10"].map(str::to_owned);
    assert_eq!(web.run.as_deref(), Some(words.as_slice()));
    assert_eq!((web.directory.as_path(), web.replicas), (Path::new("/m"), 1));
    let orders = &mesh.services["orders"];
    assert_eq!(orders.id, id("spiffe://example.org/team/orders"));
    let env = [("PORT", "8080"), ("DEBUG", "true"), ("NAME", "x=y"), ("EMPTY", "")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(orders.env, BTreeMap::from(env));
    assert_eq!(orders.directory, Path::new("/m/services/orders"));
    let ports = [(8080, Protocol::Http), (5432, Protocol::Tcp), (9090, Protocol::Grpc)];
    assert_eq!(orders.ports, BTreeMap::from(ports));
    assert_eq!((orders.replicas, orders.healthy), (2, Some(8080)));
    assert_eq!(orders.user.as_deref(), Some("nobody"));
}

#[test]
fn a_daemons_file_is_read_whole() {
    let text = r#"{
      "trustDomain": "td", "stateDir": "state", "runDir": "/run/x", "listen": "0.0.0.0:15012",
      "healthListen": "[::1]:15014", "meshRanges": ["10.0.0.0/16", "fd00::/64"],
      "registry": [{"id": "spiffe://td/batch"}],
      "services": {
        "a": {"endpoints": ["10.0.0.2:80", "[fd00::2]:80"], "virtualAddresses": ["240.0.0.1"], "ports": {"80": "tcp"}},
        "client": {"endpoints": [], "ports": {}}
      }
    }"#;
    let mesh = parse(text).unwrap();
    assert_eq!(
        (mesh.name.as_str(), mesh.certificate_ttl),
        ("mesh", Duration::from_secs(3600))
    );
    assert_eq!(mesh.state_dir, Some(PathBuf::from("/m/state")));
    assert_eq!(mesh.run_dir, Some(PathBuf::from("/run/x")));
    assert_eq!(mesh.listen.unwrap().to_string(), "0.0.0.0:15012");
    assert_eq!(mesh.health_listen.unwrap().to_string(), "[::1]:15014");
    assert_eq!(mesh.mesh_ranges.len(), 2);
    assert_eq!(mesh.registry[0].id, id("spiffe://td/batch"));
    let service = &mesh.services["a"];
    assert_eq!(service.endpoints.len(), 2);
    assert_eq!(service.virtual_addresses.len(), 1);
    assert_eq!((service.run.as_ref(), service.replicas), (None, 1));
}

#[test]
fn all_errors_of_a_file_are_told_in_its_order() {
    let text = "\
trust_domain: td
certificates: {ttl: 1d}
polices: [p]
services:
  Web:
    run: []
    ports: {80: htp, 0: tcp}
  b:
    prots: {1: tcp}
    run: [x]
    replicas: 65
";
    assert_eq!(
        errors(text),
        [
            "/m/mesh.yaml:1:1: error: unknown key `trust_domain` in a mesh file: did you mean `trustDomain`?",
            "/m/mesh.yaml:1:1: error: `trustDomain` is missing in a mesh file: where the SPIFFE IDs lie, such as \
             example.org",
            "/m/mesh.yaml:2:21: error: expected a duration from 2s to 24h, such as 1h, 30m or 1h30m, found \"1d\"",
            "/m/mesh.yaml:3:1: error: unknown key `polices` in a mesh file: did you mean `policies`?",
            "/m/mesh.yaml:5:3: error: expected the name of a service: at most 63 of a-z, 0-9 and -, neither beginning \
             nor ending with -, found \"Web\"",
            "/m/mesh.yaml:6:10: error: expected a program and its arguments, such as [./orders, --port, 8080], found a \
             list",
            "/m/mesh.yaml:7:17: error: expected a protocol: `tcp`, `http` or `grpc`, found \"htp\"",
            "/m/mesh.yaml:7:22: error: expected a port from 1 to 65535, found the number 0",
            "/m/mesh.yaml:9:5: error: unknown key `prots` in a service: did you mean `ports`?",
            "/m/mesh.yaml:11:15: error: expected a number from 1 to 64, found the number 65",
        ]
    );
}

#[test]
fn a_choice_that_there_is_not_is_an_error_where_it_stands() {
    let services = "services: {}\n";
    let cases = [
        (
            "mode: lax",
            "2:7: error: expected `strict` or `permissive`, found \"lax\"",
        ),
        (
            "authority: vault",
            "2:12: error: expected `embedded` or `{vault: …}`, found \"vault\"",
        ),
        (
            "authority: {volt: {}}",
            "2:13: error: unknown key `volt` in `authority`: did you mean `vault`?",
        ),
    ];
    for (line, expected) in cases {
        let found = error(&format!("{line}\n{services}"));
        assert!(found.starts_with(expected), "{found}");
    }
}

#[test]
fn what_lies_outside_and_may_be_called() {
    let read = |lines: &str| {
        parse(&format!("trustDomain: td\n{lines}\nservices: {{}}\n"))
            .unwrap()
            .egress
    };
    assert_eq!(read(""), Egress::default());
    assert_eq!(read("egressMode: deny\negress: []"), Egress::default());
    let entries =
        "egress: [{name: registry, to: [10.0.0.9/32, '2001:db8::/32'], ports: [443]}, {name: all, to: [0.0.0.0/0]}]";
    let entry = |name: &str, to: &[&str], ports: &[u16]| EgressEntry {
        name: name.to_owned(),
        to: to.iter().map(|range| range.parse().unwrap()).collect(),
        ports: ports.to_vec(),
    };
    let expected = Egress {
        mode: EgressMode::Audit,
        entries: vec![
            entry("registry", &["10.0.0.9/32", "2001:db8::/32"], &[443]),
            entry("all", &["0.0.0.0/0"], &[]),
        ],
    };
    assert_eq!(read(&format!("egressMode: audit\n{entries}")), expected);
}

#[test]
fn nothing_outside_is_allowed_by_mistake() {
    let cases = [
        (
            "egressMode: open",
            "2:13: error: expected `deny`, `audit` or `allow`, found \"open\"",
        ),
        ("egress: [{to: [10.0.0.9/32]}]", "2:10: error: `name` is missing"),
        ("egress: [{name: x}]", "2:10: error: `to` is missing"),
        (
            "egress: [{name: x, to: []}]",
            "2:24: error: expected ranges of addresses: at least one",
        ),
        (
            "egress: [{name: x, to: [10.0.0.9/32], ports: []}]",
            "2:46: error: expected ports: at least one",
        ),
        (
            "egress: [{name: x, to: [10.0.0.9/32], ports: [0]}]",
            "2:47: error: expected a port from 1 to 65535",
        ),
        (
            "egress: [{name: x, to: [10.0.0.9/24]}]",
            "2:25: error: `10.0.0.9/24` has bits set beyond its mask",
        ),
        (
            "egress: [{name: x, to: [169.254.169.254/32]}]",
            "2:25: error: `169.254.169.254/32` can't be called",
        ),
        (
            "egress: [{name: x, to: ['fe80::/64']}]",
            "2:25: error: `fe80::/64` can't be called",
        ),
        (
            "egress: [{name: x, to: ['::ffff:10.0.0.9/128']}]",
            "2:25: error: `::ffff:10.0.0.9/128` stands for IPv4",
        ),
        (
            "egress: [{name: '', to: [10.0.0.9/32]}]",
            "2:17: error: expected a name of 1 to 253",
        ),
        (
            "egress: [{name: x, to: [10.0.0.9/32]}, {name: x, to: [10.0.0.8/32]}]",
            "2:40: error: an entry of `egress` is named `x` already",
        ),
    ];
    for (line, expected) in cases {
        let found = error(&format!("{line}\nservices: {{}}\n"));
        assert!(found.starts_with(expected), "{line}: {found}");
    }
}

#[test]
fn what_is_published_is_declared_and_has_an_address_of_its_own() {
    let text = "trustDomain: td\nservices:\n  a:\n    run: [x]\n    ports: {80: tcp, 81: tcp}\n    \
                publish: {80: '127.0.0.1:18080', 81: '[::1]:18080'}\n";
    let published = &parse(text).unwrap().services["a"].publish;
    let expected = [
        (80, "127.0.0.1:18080".parse().unwrap()),
        (81, "[::1]:18080".parse().unwrap()),
    ];
    assert_eq!(*published, BTreeMap::from(expected));
    let cases = [
        (
            "publish: {82: '127.0.0.1:1'}",
            "the service does not declare port 82: add it to `ports`",
        ),
        ("publish: {80: 18080}", "expected IP:PORT"),
        ("publish: {80: 'localhost:18080'}", "expected IP:PORT"),
        (
            "publish: {80: '127.0.0.1:1', '080': '127.0.0.1:2'}",
            "port 80 is given twice",
        ),
        (
            "publish: {80: '127.0.0.1:1', 81: '0.0.0.0:1'}",
            "service `a` is published at 127.0.0.1:1 already: choose another port",
        ),
        (
            "peer: mtls\n    publish: {80: '127.0.0.1:1'}",
            "`publish` needs a sidecar",
        ),
    ];
    for (lines, expected) in cases {
        let found = service_error(&format!("ports: {{80: tcp, 81: tcp}}\n    {lines}"));
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn who_carries_calls_in_from_outside_may_get_a_token_and_no_agent_hands_it_out() {
    let entry = "registry: [{id: spiffe://td/watchword/publish}]";
    let mesh = parse(&format!("trustDomain: td\n{entry}\nservices: {{}}\n")).unwrap();
    assert_eq!(mesh.registry[0].id.to_string(), "spiffe://td/watchword/publish");
    let found = error("registry: [{id: spiffe://td/watchword/publish, agents: [spiffe://td/a]}]\nservices: {}\n");
    assert!(found.contains("no agent hands out"), "{found}");
    let found = service_error("id: spiffe://td/watchword/publish");
    assert!(found.contains("is reserved"), "{found}");
}

#[test]
fn a_service_is_a_sidecars_or_a_program_that_does_its_own_tls() {
    let peer = |lines: &str| {
        let text = format!("trustDomain: td\nservices:\n  a:\n    run: [x]\n    {lines}\n");
        parse(&text).unwrap().services["a"].peer
    };
    let table = [
        ("", PeerKind::Watchword),
        ("peer: watchword", PeerKind::Watchword),
        ("peer: mtls", PeerKind::Mtls),
    ];
    for (lines, expected) in table {
        assert_eq!(peer(lines), expected, "{lines}");
    }
    let found = service_error("peer: istio");
    assert!(
        found.starts_with("5:11: error: expected `watchword` (a sidecar) or `mtls`"),
        "{found}"
    );
}

#[test]
fn a_service_has_either_run_or_endpoints() {
    let found = error("services: {a: {ports: {80: tcp}}}");
    assert!(found.starts_with("2:15: error: expected `run:"), "{found}");
    let found = service_error("endpoints: []");
    assert!(
        found.starts_with("5:5: error: a service has either `run` or `endpoints`"),
        "{found}"
    );
    let found = service_error("virtualAddresses: [240.0.0.1]");
    assert!(found.contains("`virtualAddresses` goes with `endpoints`"), "{found}");
    for key in [
        "env: {}",
        "directory: x",
        "replicas: 1",
        "user: x",
        "healthy: {port: 1}",
        "publish: {}",
    ] {
        let found = error(&format!("services: {{a: {{endpoints: [], {key}}}}}"));
        assert!(found.contains("goes with `run`"), "{found}");
    }
}

#[test]
fn ids_lie_in_the_trust_domain_and_are_not_reserved() {
    let cases = [
        (
            "spiffe://other/a",
            "lies outside of the trust domain: expected spiffe://td/…",
        ),
        ("spiffe://td/watchword", "is reserved"),
        ("spiffe://td/watchword/control-plane", "is reserved"),
        ("spiffe://td/a/*", "is not a SPIFFE ID"),
        ("spiffe://td", "the path is missing"),
        ("a", "is not a SPIFFE ID"),
    ];
    for (id, expected) in cases {
        let found = service_error(&format!("id: {id}"));
        assert!(found.starts_with("5:9: error: ") && found.contains(expected), "{found}");
        let found = error(&format!("services: {{}}\nregistry: [{{id: {id}}}]"));
        assert!(
            found.starts_with("3:17: error: ") && found.contains(expected),
            "{found}"
        );
    }
    let found = error("services: {watchword: {run: [x]}}");
    assert!(
        found.contains("2:12: error: the ID of this service would be"),
        "{found}"
    );
    assert!(parse("trustDomain: td\nservices: {watchwords: {run: [x]}}").is_ok());
}

#[test]
fn names_of_services_are_told_apart() {
    let named = |names: &str| format!("services:\n{names}");
    let found = error(&named("  a: {run: [x], replicas: 2}\n  a-2: {run: [x]}\n"));
    assert!(
        found.starts_with("4:3: error: `a-2` names replica 2 of service `a`"),
        "{found}"
    );
    assert!(
        parse(&format!(
            "trustDomain: td\n{}",
            named("  a: {run: [x]}\n  a-2: {run: [x]}\n")
        ))
        .is_ok()
    );
    let found = error(&named("  a: {run: [x]}\n  a: {run: [x]}\n"));
    assert!(
        found.starts_with("4:3: error: `a` is given twice, first on line 3"),
        "{found}"
    );
    let found = error(&named("  localhost: {run: [x]}\n"));
    assert!(found.contains("`localhost` always means the caller itself"), "{found}");
    for name in ["A", "a_b", "-a", "a-", "a.b", "''", &"a".repeat(64)] {
        let found = error(&named(&format!("  {name}: {{run: [x]}}\n")));
        assert!(
            found.starts_with("3:3: error: expected the name of a service"),
            "{found}"
        );
    }
}

#[test]
fn addresses_belong_to_one_service() {
    let two = |a: &str, b: &str| {
        let service = |lines: &str| format!("{{ports: {{80: tcp, 81: tcp}}, {lines}}}");
        format!("services:\n  a: {}\n  b: {}\n", service(a), service(b))
    };
    let found = error(&two(
        "endpoints: ['10.0.0.1:80']",
        "endpoints: ['[::ffff:10.0.0.1]:80']",
    ));
    assert!(
        found.contains("error: 10.0.0.1:80 is an endpoint of service `a` already"),
        "{found}"
    );
    let found = error(&two(
        "endpoints: [], virtualAddresses: [240.0.0.1]",
        "endpoints: [], virtualAddresses: [240.0.0.1]",
    ));
    assert!(
        found.contains("240.0.0.1 is a virtual address of service `a` already"),
        "{found}"
    );
    let found = error(&two(
        "endpoints: [], virtualAddresses: [10.0.0.1]",
        "endpoints: ['10.0.0.1:80']",
    ));
    assert!(
        found.contains("10.0.0.1 is an address of service `b`, so it can't be a virtual address"),
        "{found}"
    );
    let found = error(&two(
        "endpoints: ['10.0.0.1:80']",
        "endpoints: [], addresses: [10.0.0.1]",
    ));
    assert!(
        found.contains("10.0.0.1 is an address of service `a` already"),
        "{found}"
    );
    let text = two("endpoints: ['10.0.0.1:80'], addresses: [10.0.0.1]", "endpoints: []");
    assert!(parse(&format!("trustDomain: td\n{text}")).is_ok());
    let text = two("endpoints: ['10.0.0.1:80']", "endpoints: ['10.0.0.1:81']");
    assert!(parse(&format!("trustDomain: td\n{text}")).is_ok());
}

#[test]
fn ports_and_addresses_are_checked() {
    for port in [15001, 15006, 15020, 15099] {
        let found = service_error(&format!("ports: {{{port}: tcp}}"));
        assert!(
            found.starts_with(&format!("5:13: error: port {port} is the sidecar's own")),
            "{found}"
        );
    }
    let found = service_error("ports: {80: tcp, \"80\": http}");
    assert!(found.contains("given twice"), "{found}");
    let found = service_error("healthy: {port: 15001}");
    assert!(found.contains("the sidecar's own"), "{found}");
    let endpoints = |address: &str| {
        error(&format!(
            "services: {{a: {{ports: {{80: tcp}}, endpoints: ['{address}']}}}}"
        ))
    };
    assert!(endpoints("10.0.0.1:81").contains("does not declare port 81: add it to `ports`, as `81: tcp`"));
    assert!(endpoints("0.0.0.0:80").contains("expected the address of one machine"));
    assert!(endpoints("10.0.0.1").contains("expected IP:PORT"));
    assert!(endpoints("host:80").contains("expected IP:PORT"));
    let found = error("services: {}\nmeshRanges: [10.0.0.1/8]");
    assert!(found.ends_with("did you mean 10.0.0.0/8?"), "{found}");
    let found = error("services: {}\nlisten: 15012");
    assert!(found.starts_with("3:9: error: expected IP:PORT"), "{found}");
}

#[test]
fn the_file_is_one_document_with_a_name() {
    assert!(errors("")[0].contains("the file is empty"));
    assert!(errors("a: 1\n---\nb: 2\n")[0].starts_with("/m/mesh.yaml:3:1: error: expected one mesh file"));
    assert!(errors("[]")[0].contains("expected a mesh file (a mapping), found a list"));
    let text = "trustDomain: td\nservices: {}\n";
    let unnamed = MeshFile::parse("/m/ü.yaml", text, Path::new("/m")).unwrap_err();
    assert!(unnamed[0].message.contains("add `name:`"), "{}", unnamed[0]);
    for name in ["Shop", "../x", "-x", "''", &"x".repeat(33), "a/b"] {
        let found = error(&format!("name: {name}\nservices: {{}}\n"));
        assert!(found.starts_with("2:7: error: expected the name of a mesh"), "{found}");
    }
    for domain in ["TD", "spiffe://td", "t d", "''"] {
        let found = errors(&format!("trustDomain: {domain}\nservices: {{}}\n"));
        assert!(found[0].contains("expected a trust domain in lower case"), "{found:?}");
    }
}

#[test]
fn policies_are_checked_against_what_all_services_of_an_id_declare() {
    let text = "
trustDomain: td
registry: [{id: spiffe://td/batch}]
services:
  a: {id: spiffe://td/x, endpoints: [], ports: {80: http, 81: tcp}}
  b: {id: spiffe://td/x, endpoints: [], ports: {80: tcp}}
";
    let context = parse(text).unwrap().policy_context();
    let ports = &context.services[&id("spiffe://td/x")];
    assert_eq!(ports[&80], [Protocol::Tcp, Protocol::Http].into());
    assert_eq!(ports[&81], [Protocol::Tcp].into());
    assert_eq!(context.services.len(), 1);
    assert_eq!(context.registry, [id("spiffe://td/batch")].into());
}

#[test]
fn programs_get_no_zero_bytes() {
    for line in ["env: {A: \"x\\0\"}", "user: \"x\\0\"", "directory: \"x\\0\""] {
        assert!(service_error(line).starts_with("5:"), "{line}");
    }
    let found = service_error("env: {A=B: x}");
    assert!(found.contains("the name of a variable, without `=`"), "{found}");
    assert!(error("services: {a: {run: [\"x\\0\"]}}").contains("zero byte"));
}

#[test]
fn certificates_last_from_two_seconds_to_a_day() {
    let with = |ttl: &str| format!("certificates: {{ttl: {ttl}}}\nservices: {{}}\n");
    for (ttl, seconds) in [("2s", 2), ("24h", 86_400), ("1h1m1s", 3661)] {
        let mesh = parse(&format!("trustDomain: td\n{}", with(ttl))).unwrap();
        assert_eq!(mesh.certificate_ttl.as_secs(), seconds);
    }
    for ttl in ["1s", "0h", "86401s", "60", "1d", "''", "~"] {
        let found = error(&with(ttl));
        assert!(
            found.starts_with("2:") && found.contains("expected a duration from 2s to 24h"),
            "{found}"
        );
    }
}

/// A folder with a mesh file and a folder of policies.
fn folder(policies: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = "trustDomain: td\npolicies: [policies]\nservices:\n  a: {run: [x], ports: {80: tcp}}\n";
    fs::write(folder.path().join("mesh.yaml"), text).unwrap();
    fs::create_dir(folder.path().join("policies")).unwrap();
    for (name, text) in policies {
        fs::write(folder.path().join("policies").join(name), text).unwrap();
    }
    folder
}

fn load(folder: &tempfile::TempDir) -> MeshFile {
    MeshFile::load(&folder.path().join("mesh.yaml")).unwrap()
}

const POLICY: &str = "name: NAME\nservice: spiffe://td/a\nallow: [{from: [spiffe://td/a], ports: [80]}]\n";

#[test]
fn policies_are_read_sorted_through_links_and_once() {
    let folder = folder(&[("b.yaml", &POLICY.replace("NAME", "b")), ("notes.txt", "x: [")]);
    let policies = folder.path().join("policies");
    fs::write(folder.path().join("outside"), POLICY.replace("NAME", "a")).unwrap();
    std::os::unix::fs::symlink("../outside", policies.join("a.yml")).unwrap();
    std::os::unix::fs::symlink("b.yaml", policies.join("c.yaml")).unwrap();
    fs::create_dir(policies.join("..data")).unwrap();
    let loaded = load(&folder).load_policies().unwrap();
    let names: Vec<&str> = loaded.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn policies_are_checked_together_and_against_the_mesh() {
    let wrong = POLICY.replace("NAME", "p").replace("[80]", "[81]");
    let folder = folder(&[
        ("a.yaml", &POLICY.replace("NAME", "p")),
        ("b.yaml", &wrong),
        ("c.yaml", "x"),
    ]);
    let found = load(&folder).load_policies().unwrap_err();
    let of = |file: &str| {
        let found = found.iter().filter(|one| one.file.ends_with(file));
        found.map(|one| (one.line, one.column)).collect::<Vec<_>>()
    };
    assert_eq!(of("b.yaml"), [(1, 7), (3, 41)], "{found:?}");
    assert_eq!(of("c.yaml"), [(1, 1)], "one wrong file does not hide the others");
}

#[test]
fn empty_and_nested_folders_of_policies_are_warned_of() {
    let folder = folder(&[]);
    fs::create_dir(folder.path().join("policies/inner")).unwrap();
    let loaded = load(&folder).load_policies().unwrap();
    let messages: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages[0].contains("is not read"), "{messages:?}");
    assert!(messages[1].contains("no policy file"), "{messages:?}");
}

#[test]
fn what_is_not_there_is_told_where_it_is_named() {
    let folder = folder(&[]);
    let file = folder.path().join("mesh.yaml");
    let text = "trustDomain: td\npolicies: [gone]\nservices:\n  a: {run: [x], directory: mesh.yaml}\n";
    fs::write(&file, text).unwrap();
    let found = MeshFile::load(&file).unwrap_err();
    let places: Vec<_> = found.iter().map(|one| (one.line, one.column)).collect();
    assert_eq!(places, [(2, 12), (4, 28)], "{found:?}");
    assert!(found[0].message.contains("gone"), "{}", found[0]);
    assert!(found[1].message.contains("is not a folder"), "{}", found[1]);
    let found = MeshFile::load(&folder.path().join("none.yaml")).unwrap_err();
    assert!(
        found[0]
            .to_string()
            .contains("none.yaml:1:1: error: the file can't be read"),
        "{}",
        found[0]
    );
    let found = MeshFile::load(folder.path()).unwrap_err();
    assert!(found[0].message.contains("not a regular file"), "{}", found[0]);
    fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(MeshFile::load(&file).unwrap_err()[0].message.contains("not UTF-8"));
}

#[test]
fn mistakes_about_other_trust_domains_are_told_where_they_stand() {
    let cases = [
        (
            "[p.pem]",
            "2:15: error: expected other trust domains, each with the file of its roots (a mapping), found a list",
        ),
        (
            "{td: own.pem}",
            "2:16: error: this is the mesh's own `trustDomain`, whose roots the authority says: leave it out here",
        ),
        (
            "{Partner.example: p.pem}",
            "2:16: error: expected a trust domain in lower case, such as example.org, found \"Partner.example\"",
        ),
        (
            "{spiffe://partner.example: p.pem}",
            "2:16: error: expected a trust domain in lower case",
        ),
        ("{p.example: ''}", "2:27: error: expected a path, found"),
        ("{p.example: [p.pem]}", "2:27: error: expected a path, found a list"),
        ("{p.example: ~}", "2:27: error: expected a path, found nothing"),
        (
            "{p.example: a.pem, p.example: b.pem}",
            "2:34: error: `p.example` is given twice, first on line 2: keep one",
        ),
    ];
    for (bundles, expected) in cases {
        let found = error(&format!("trustBundles: {bundles}\nservices: {{}}\n"));
        assert!(found.starts_with(expected), "{found}\nexpected {expected}");
    }
    let many: Vec<String> = (0..33).map(|number| format!("p{number}: p.pem")).collect();
    let found = error(&format!("trustBundles: {{{}}}\nservices: {{}}\n", many.join(", ")));
    assert!(
        found.starts_with("2:15: error: 33 other trust domains are more than 32"),
        "{found}"
    );
}

/// A mesh that knows `partner.example` by this file.
fn with_partner(pem: impl AsRef<[u8]>) -> (tempfile::TempDir, MeshFile) {
    let folder = folder(&[]);
    fs::write(folder.path().join("partner.pem"), pem).unwrap();
    let path = folder.path().join("mesh.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}trustBundles: {{partner.example: partner.pem}}\n")).unwrap();
    let mesh = load(&folder);
    (folder, mesh)
}

#[test]
fn other_trust_domains_have_the_roots_of_their_files() {
    let (first, second) = (root().pem(), root().pem());
    let (_folder, mesh) = with_partner(format!("# Two of them.\n{first}{second}"));
    let bundle = mesh.load_trust_bundles().unwrap();
    assert_eq!(bundle.iter().count(), 1);
    assert_eq!(bundle.roots(&TrustDomain::new("partner.example").unwrap()).len(), 2);
    let (_folder, mesh) = with_partner(first.replace('\n', "\r\n"));
    assert!(mesh.load_trust_bundles().is_ok());
    assert!(
        parse("trustDomain: td\nservices: {}\n")
            .unwrap()
            .load_trust_bundles()
            .unwrap()
            .iter()
            .next()
            .is_none()
    );
}

#[test]
fn a_bad_trust_bundle_is_named_with_what_to_do() {
    let good = root().pem();
    let leaf = rcgen::CertificateParams::default().self_signed(&key()).unwrap().pem();
    let many: String = (0..33).map(|_| good.as_str()).collect();
    let cases: [(Vec<u8>, &str); 9] = [
        (Vec::new(), "has no root"),
        ("no PEM at all".into(), "has no root"),
        (root().der().to_vec(), "has no root"),
        (key().serialize_pem().into(), "has no root"),
        (leaf.into(), "is not a CA certificate"),
        (
            [good.trim(), &good].concat().into(),
            "only 1 of 2 certificates can be read",
        ),
        (
            good.replace("CERTIFICATE-----\nMI", "CERTIFICATE-----\nMM").into(),
            "cannot be read",
        ),
        (many.into(), "has more than 32 roots"),
        (
            [good.as_str(), &" ".repeat(64 << 10)].concat().into(),
            "is larger than 64 KiB",
        ),
    ];
    for (pem, expected) in cases {
        let (folder, mesh) = with_partner(&pem);
        let found = mesh.load_trust_bundles().unwrap_err();
        assert_eq!(found.len(), 1, "{found:?}");
        let found = found[0].to_string();
        let file = folder.path().join("partner.pem");
        let begin = format!(
            "{}:1:1: error: this can't be the trust bundle of partner.example: ",
            file.display()
        );
        assert!(
            found.starts_with(&begin) && found.contains(expected),
            "{found}\nexpected {expected}"
        );
        assert!(
            found.ends_with("put that trust domain's root certificates into it, as PEM"),
            "{found}"
        );
    }
}

#[test]
fn a_trust_bundle_that_is_no_file_is_told_where_it_is_named() {
    let (folder, mesh) = with_partner("");
    let path = folder.path().join("partner.pem");
    fs::remove_file(&path).unwrap();
    let found = MeshFile::load(&folder.path().join("mesh.yaml")).unwrap_err();
    assert_eq!((found.len(), found[0].line, found[0].column), (1, 5, 33), "{found:?}");
    assert!(found[0].message.contains("partner.pem` can't be found"), "{}", found[0]);
    fs::create_dir(&path).unwrap();
    let found = mesh.load_trust_bundles().unwrap_err();
    assert!(
        found[0]
            .to_string()
            .contains("partner.pem:1:1: error: the file can't be read"),
        "{found:?}"
    );
}

#[test]
fn policies_may_name_callers_of_other_trust_domains_and_no_services_there() {
    let (folder, mesh) = with_partner(root().pem());
    let policies = |service: &str, from: &str| {
        let text = format!("name: p\nservice: {service}\nallow: [{{from: [{from}]}}]\n");
        fs::write(folder.path().join("policies/p.yaml"), text).unwrap();
        let checked = mesh.load_policies().map(|loaded| loaded.warnings);
        let found = checked.unwrap_or_else(|found| found);
        found.iter().map(ToString::to_string).collect::<String>()
    };
    assert_eq!(policies("spiffe://td/a", "spiffe://partner.example/x"), "");
    let found = policies("spiffe://td/a", "spiffe://second.example/x");
    assert!(
        found.contains("lies outside of the trust domains of the mesh: expected partner.example, td"),
        "{found}"
    );
    let found = policies("spiffe://partner.example/a", "spiffe://td/a");
    assert!(found.contains("no service of the mesh has the ID"), "{found}");
    let more = "trustBundles: {other: p.pem}\n";
    let found = error(&format!(
        "{more}services: {{a: {{id: spiffe://other/a, endpoints: []}}}}\n"
    ));
    assert!(
        found.contains("lies outside of the trust domain: expected spiffe://td/"),
        "{found}"
    );
    let found = error(&format!("{more}services: {{}}\nregistry: [{{id: spiffe://other/a}}]\n"));
    assert!(
        found.contains("lies outside of the trust domain: expected spiffe://td/"),
        "{found}"
    );
}

fn any_yaml() -> impl Strategy<Value = String> {
    let pieces = vec![
        "trustDomain",
        "services",
        "a",
        "run",
        "ports",
        "endpoints",
        "registry",
        "id",
        "certificates",
        "ttl",
        ": ",
        ":",
        "- ",
        "\n",
        "\n  ",
        "\n    ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "'",
        "\"",
        "&a ",
        "*a",
        "<<",
        "---\n",
        "80",
        "td",
        "spiffe://td/x",
        "10.0.0.1:80",
        "1h",
        "~",
        "ü",
    ];
    vec(select(pieces), 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_makes_it_panic(text in any_yaml(), cut in 0..FULL.len()) {
        let _ = parse(&text);
        let _ = parse(&format!("{}{text}{}", &FULL[..cut], &FULL[cut..]));
    }
}

const VAULT: &str = "addresses: ['https://v.example:8200', 'https://[::1]'], caFile: ca.pem, mount: a/pki_int, role: mesh, \
                     rootFile: /r.pem";

/// `vault` as it is read; written, it is read as the same.
fn vault(keys: &str) -> Box<VaultSettings> {
    let read = |authority: &str| {
        let text = format!("trustDomain: example.org\nservices: {{}}\nauthority: {authority}\n");
        let mesh = MeshFile::parse("/m/mesh.yaml", &text, Path::new("/m"));
        mesh.unwrap().authority
    };
    let found = read(&format!("{{vault: {{{VAULT}, {keys}}}}}"));
    assert_eq!(read(&found.to_json().to_string()), found);
    match found {
        AuthorityChoice::Vault(settings) => settings,
        AuthorityChoice::Embedded => panic!("{keys}"),
    }
}

#[test]
fn a_vault_is_read_with_its_paths() {
    let settings = vault("namespace: org/team, auth: {tokenFile: t}");
    let addresses: Vec<String> = settings.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["https://v.example:8200", "https://[::1]:443"]);
    assert_eq!(settings.ca_file.as_deref(), Some(Path::new("/m/ca.pem")));
    assert_eq!((settings.mount.as_str(), settings.role.as_str()), ("a/pki_int", "mesh"));
    assert_eq!(settings.namespace.as_deref(), Some("org/team"));
    assert_eq!(settings.root_file, Path::new("/r.pem"));
    assert_eq!(settings.client_certificate, None);
    let settings = vault("auth: {tokenFile: t}, certFile: c.pem, keyFile: /k.pem");
    let shown = CertificateFiles {
        certificate: "/m/c.pem".into(),
        key: "/k.pem".into(),
    };
    assert_eq!(settings.client_certificate, Some(shown));
}

#[test]
fn there_are_four_ways_to_log_in_to_a_vault() {
    let kubernetes = |mount: &str, token_file: &str| VaultAuth::Kubernetes {
        mount: mount.into(),
        role: "mesh".into(),
        token_file: token_file.into(),
    };
    let certificate = |mount: &str, role: Option<&str>| VaultAuth::Certificate {
        mount: mount.into(),
        role: role.map(str::to_owned),
    };
    let auths = [
        ("{tokenFile: t}", VaultAuth::TokenFile("/m/t".into())),
        (
            "{appRole: {roleIdFile: r, secretIdFile: /s, secretIdWrapped: true}}",
            VaultAuth::AppRole {
                mount: "approle".into(),
                role_id_file: "/m/r".into(),
                secret_id_file: "/s".into(),
                secret_id_wrapped: true,
            },
        ),
        (
            "{kubernetes: {role: mesh}}",
            kubernetes("kubernetes", "/var/run/secrets/kubernetes.io/serviceaccount/token"),
        ),
        (
            "{kubernetes: {role: mesh, mount: k8s/eu, tokenFile: t}}",
            kubernetes("k8s/eu", "/m/t"),
        ),
        ("{certificate: {}}", certificate("cert", None)),
        (
            "{certificate: {mount: a/cert, role: mesh}}",
            certificate("a/cert", Some("mesh")),
        ),
    ];
    for (text, auth) in auths {
        let settings = vault(&format!("auth: {text}, certFile: c.pem, keyFile: /k.pem"));
        assert_eq!(settings.auth, auth);
    }
}

#[test]
fn mistakes_in_a_vault_are_told_where_they_stand() {
    let good_auth = "auth: {tokenFile: t}";
    let cases = [
        (
            VAULT.to_owned(),
            "2:20: error: `auth` is missing in `vault`: how to log in",
        ),
        (
            format!("{VAULT}, auth: {{tokenFile: t, appRole: {{}}}}"),
            "2:147: error: `auth` needs one way to log in",
        ),
        (
            format!("addresses: [], role: r, rootFile: r, {good_auth}"),
            "2:32: error: expected one to 16 addresses of Vault, found a list",
        ),
        (
            format!("addresses: ['http://10.0.0.1'], role: r, rootFile: r, {good_auth}"),
            "2:33: error: `http://10.0.0.1` would carry Vault's token in the clear: use https",
        ),
        (
            format!("addresses: ['http://localhost'], role: r, rootFile: r, {good_auth}"),
            "2:33: error: `http://localhost` would carry",
        ),
        (
            format!("addresses: ['https://a/b'], role: r, rootFile: r, {good_auth}"),
            "2:33: error: expected an address of Vault",
        ),
        (
            format!("addresses: ['https://u:p@a'], role: r, rootFile: r, {good_auth}"),
            "2:33: error: expected an address of Vault",
        ),
        (
            format!("addresses: ['https://a'], role: r, rootFile: r, {good_auth}"),
            "2:20: error: `caFile` is missing in `vault`",
        ),
        (
            format!("addresses: ['http://[::1]:8200'], role: a/b, rootFile: r, {good_auth}"),
            "2:61: error: expected a PKI role's name",
        ),
        (
            format!("addresses: ['http://[::1]:8200'], role: r, mount: ../sys, rootFile: r, {good_auth}"),
            "2:71: error: expected where a PKI engine is mounted",
        ),
        (
            format!("addresses: ['http://[::1]:8200'], role: r, rootFile: r, skipVerify: true, {good_auth}"),
            "2:77: error: unknown key `skipVerify` in `vault`",
        ),
    ];
    told_where_they_stand(&cases);
}

fn told_where_they_stand(cases: &[(String, &str)]) {
    for (vault, expected) in cases {
        let found = error(&format!("authority: {{vault: {{{vault}}}}}\nservices: {{}}\n"));
        assert!(found.starts_with(expected), "{found}\nexpected {expected}");
    }
}

#[test]
fn mistakes_in_logins_to_a_vault_are_told_where_they_stand() {
    let good_auth = "auth: {tokenFile: t}";
    told_where_they_stand(&[
        (
            format!("{VAULT}, auth: {{kubernetes: {{tokenFile: t}}}}"),
            "2:160: error: `role` is missing in `kubernetes`: the role of Vault's Kubernetes login",
        ),
        (
            format!("{VAULT}, auth: {{kubernetes: {{role: a/b}}}}"),
            "2:167: error: expected the name of a role of Vault's Kubernetes login",
        ),
        (
            format!("{VAULT}, auth: {{certificate: {{}}}}"),
            "2:148: error: `certificate` needs `certFile` and `keyFile` in `vault`: what to log in with",
        ),
        (
            format!("{VAULT}, auth: {{certificate: {{certFile: c}}}}, certFile: c, keyFile: k"),
            "2:162: error: unknown key `certFile` in `certificate`",
        ),
        (
            format!("{VAULT}, certFile: c, {good_auth}"),
            "2:151: error: `certFile` needs `keyFile` beside it",
        ),
        (
            format!("{VAULT}, keyFile: k, {good_auth}"),
            "2:150: error: `keyFile` needs `certFile` beside it",
        ),
        (
            format!(
                "addresses: ['https://a', 'http://[::1]:82'], caFile: a, role: r, rootFile: r, certFile: c, keyFile: k, \
                 {good_auth}"
            ),
            "2:99: error: `certFile` is shown in TLS only, and `http://[::1]:82` has none: use https",
        ),
    ]);
}

#[test]
fn traces_go_where_the_file_says() {
    let tracing = |keys: &str| {
        let text = format!("trustDomain: td\ntracing: {{{keys}}}\nservices: {{}}\n");
        parse(&text).unwrap().tracing.unwrap().to_json().to_string()
    };
    assert_eq!(
        tracing("address: 'unix:run/otel.sock'"),
        r#"{"address":"unix:/m/run/otel.sock"}"#
    );
    assert_eq!(
        tracing("address: unix:/run/otel.sock, sampleRatio: 1"),
        r#"{"address":"unix:/run/otel.sock","sampleRatio":1.0}"#
    );
    assert_eq!(
        tracing("address: '[::1]:4317', sampleRatio: 0.001"),
        r#"{"address":"[::1]:4317","sampleRatio":0.001}"#
    );
    assert_eq!(parse("trustDomain: td\nservices: {}\n").unwrap().tracing, None);
}

#[test]
fn mistakes_about_traces_are_told_where_they_stand() {
    let long = format!("address: 'unix:{}'", "a".repeat(105));
    let cases = [
        ("", "2:10: error: `address` is missing in `tracing`: the OpenTelemetry"),
        ("address: otel", "2:20: error: expected unix:PATH or HOST:PORT, where a"),
        ("address: 'http://otel:4317'", "2:20: error: expected unix:PATH or"),
        ("address: 'otel:0'", "2:20: error: expected unix:PATH or HOST:PORT"),
        ("address: 'unix:'", "2:20: error: expected unix:PATH or HOST:PORT"),
        (&long, "2:20: error: the path `/m/aaaaa"),
        (
            "address: 'o:1', ratio: 1",
            "2:27: error: unknown key `ratio` in `tracing`",
        ),
        (
            "address: 'o:1', sampleRatio: 1.5",
            "2:40: error: expected a number from 0 to 1, such as 0.01, found the number 1.5",
        ),
        ("address: 'o:1', sampleRatio: -1", "2:40: error: expected a number"),
        ("address: 'o:1', sampleRatio: .nan", "2:40: error: expected a number"),
    ];
    for (keys, expected) in cases {
        let found = error(&format!("tracing: {{{keys}}}\nservices: {{}}\n"));
        assert!(found.starts_with(expected), "{found}\nexpected {expected}");
    }
}

#[test]
fn what_the_page_of_mesh_files_shows_is_taken() {
    let page = include_str!("../../../docs/mesh-file.md");
    let blocks = page
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split_once("```").unwrap().0);
    // Policies and cases are tried where those are judged.
    let starts = ["name: shop", "services:", "egressMode:", "trustBundles:"];
    let shown: Vec<_> = blocks
        .filter(|block| starts.iter().any(|start| block.starts_with(start)))
        .collect();
    assert_eq!(shown.len(), starts.len(), "{shown:#?}");
    for block in shown {
        let missing = |key: &str, line: &str| match block.contains(key) {
            true => String::new(),
            false => format!("{line}\n"),
        };
        let whole = missing("trustDomain:", "trustDomain: example.org") + &missing("services:", "services: {}") + block;
        parse(&whole).unwrap_or_else(|found| panic!("{whole}\n{found:#?}"));
    }
}
