//! What only root can test: users, daemons started by hand, and what another
//! user's processes do.

mod system_calls;

use std::process::{Command, Stdio};

use watchword_tests::{MeshFile, Output, binary, is_root};

use crate::apps::mesh;

fn need_root() {
    assert!(
        is_root(),
        "this test needs root: run the tests as root, or leave this group out with --no-root"
    );
}

fn status_line(status: &str, key: &str) -> String {
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn an_app_runs_as_nobody_without_capabilities_and_can_not_see_the_mesh_folder() {
    need_root();
    let mesh = mesh();
    let status = mesh.exec_ok("web", &["cat", "/proc/self/status"]).unwrap();
    assert_eq!(status_line(&status, "Uid:"), "65534");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(status_line(&status, set), "0000000000000000", "{set}");
    }
    assert_eq!(status_line(&status, "NoNewPrivs:"), "1");
    // But for the socket that is its own.
    assert_eq!(
        mesh.exec_ok("web", &["ls", "/run/watchword"]).unwrap(),
        "workload.sock\n"
    );
}

#[test]
fn a_program_that_wants_to_be_root_keeps_only_what_servers_need() {
    need_root();
    let services = "web: {run: [sleep, infinity], user: root}\n";
    let policies = "name: web\nservice: spiffe://example.org/web\nallow: []\n";
    let mesh = MeshFile::new(services, policies).unwrap().up().unwrap();
    let status = mesh.exec_ok("web", &["cat", "/proc/self/status"]).unwrap();
    assert_eq!(status_line(&status, "Uid:"), "0");
    // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, KILL 5, SETGID 6, SETUID 7, NET_BIND_SERVICE 10.
    assert_eq!(status_line(&status, "CapBnd:"), "00000000000004eb");
}

#[test]
fn a_sidecar_runs_as_its_own_user_with_one_capability() {
    need_root();
    let mesh = mesh();
    let record = mesh.record().unwrap();
    let pid = record["replicas"][0]["proxyPid"].as_i64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert_eq!(status_line(&status, "Uid:"), "1337");
    // NET_ADMIN is 12.
    assert_eq!(status_line(&status, "CapEff:"), "0000000000001000");
}

#[test]
fn a_proxy_does_not_talk_to_a_control_plane_that_is_somebody_else() {
    need_root();
    let mesh = mesh();
    let folder = mesh.run_folder().unwrap();
    let own = tempfile::tempdir().unwrap();
    let config = |id: &str, bundle: &str| {
        format!(
            "controlPlane: {{address: 'unix:{}/control.sock', id: '{id}', bundleFile: '{bundle}'}}\n\
             attestation: {{tokenFile: '{}/token'}}\ninterception: {{loopProtection: mark}}\nrunDir: '{}'\n",
            folder.display(),
            own.path().display(),
            own.path().display()
        )
    };
    std::fs::write(
        own.path().join("token"),
        "wwjt-AAAAAAAAAAAAAAAAAAAAAA:spiffe://example.org/web\n",
    )
    .unwrap();
    let bundle = folder.join("bundle.pem").display().to_string();
    let stranger = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let other_root = params.self_signed(&stranger.signing_key).unwrap().pem();
    let other_bundle = own.path().join("other.pem");
    std::fs::write(&other_bundle, other_root).unwrap();
    let right = "spiffe://example.org/watchword/control-plane";
    let table = [
        (
            config("spiffe://example.org/watchword/other", &bundle),
            "expected spiffe://example.org/watchword/other",
        ),
        (config(right, other_bundle.to_str().unwrap()), "leads to no root"),
        // And the right one is talked to: only the token is wrong.
        (config(right, &bundle), "refused"),
    ];
    for (text, reason) in table {
        let file = own.path().join("proxy.yaml");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--"])
            .arg(binary("watchword-proxy").unwrap())
            .args(["run", "--config"])
            .arg(&file);
        let mut proxy = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let output = Output::of(&mut proxy);
        let said = output.wait_for(reason, |line| line.contains(reason));
        proxy.kill().unwrap();
        proxy.wait().unwrap();
        said.unwrap();
    }
}

/// Installs the rules that tell the sidecar by its uid, runs it and an app in
/// a namespace of their own, and calls the app by its own address.
const BY_UID: &str = r#"
set -eu
bin=$1 config=$2 server=$3
ip link set lo up
ip link add v0 type veth peer name v1
ip link set v0 up; ip link set v1 up
ip address add 10.87.0.4/16 dev v0
"$bin" intercept install --config "$config"
trap 'kill "$sidecar" "$app"' EXIT
setpriv --reuid 1337 --regid 1337 --clear-groups "$bin" run --config "$config" 2>"$config.log" &
sidecar=$!
python3 "$server" 8080 web &
app=$!
for attempt in $(seq 200); do
    if curl --silent --fail --max-time 2 http://127.0.0.1:15020/readyz && curl --silent --max-time 2 http://127.0.0.1:8080/; then
        break
    fi
    sleep 0.1
done
echo "ANSWER $(curl --silent --show-error --fail --max-time 10 http://10.87.0.4:8080/by-uid)"
echo "RESERVED: $(ip route show table local | grep -c 192.0.2.0/24)"
echo "NOT RESERVED: $(grep "own address" "$config.log" || grep "sidecar started" "$config.log" | wc -l)"
"$bin" intercept remove
"$bin" intercept remove
echo "RULES LEFT: $(nft list ruleset)$(ip route show table local | grep 192.0.2)$(ip -6 route show table local | grep 100::)"
"#;

#[test]
fn a_sidecar_that_is_told_by_its_uid_reaches_the_app_and_rules_go_when_removed() {
    need_root();
    let mesh = mesh();
    let folder = mesh.run_folder().unwrap();
    // The address of web-1, taken in another namespace by a sidecar of the same ID.
    let web = mesh.record().unwrap()["replicas"]
        .as_array()
        .unwrap()
        .iter()
        .find(|found| found["name"] == "web-1")
        .unwrap()
        .clone();
    assert_eq!(web["addresses"][0], "10.87.0.4");
    let own = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(own.path(), Some(1337), Some(1337)).unwrap();
    let mut create = Command::new(binary("watchword").unwrap());
    create.args([
        "token",
        "create",
        "--mesh",
        mesh.file().name(),
        "--id",
        "spiffe://example.org/web",
    ]);
    let token = own.path().join("token");
    std::fs::write(&token, watchword_tests::run(&mut create).unwrap()).unwrap();
    std::os::unix::fs::chown(&token, Some(1337), Some(1337)).unwrap();
    let config = own.path().join("proxy.yaml");
    let text = format!(
        "controlPlane: {{address: 'unix:{0}/control.sock', id: 'spiffe://example.org/watchword/control-plane', \
         bundleFile: '{0}/bundle.pem'}}\nattestation: {{tokenFile: '{1}/token'}}\n\
         interception: {{scope: namespace, loopProtection: uid}}\nrunDir: '{1}'\n",
        folder.display(),
        own.path().display()
    );
    std::fs::write(&config, text).unwrap();
    let proxy = binary("watchword-proxy").unwrap();
    // uid 1337 may not look into the folder that this was built in.
    let copied = own.path().join("watchword-proxy");
    std::fs::copy(proxy, &copied).unwrap();
    let server = mesh.file().folder().join("server.py");
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--", "sh", "-c", BY_UID, "sh"])
        .args([&copied, &config, &server]);
    let printed = watchword_tests::run(&mut command).unwrap();
    assert!(printed.contains("ANSWER hello from web /by-uid"), "{printed}");
    // It has no capability, and dials from reserved addresses nevertheless.
    assert!(printed.contains("\nRESERVED: 1\nNOT RESERVED: 1\n"), "{printed}");
    assert!(printed.trim_end().ends_with("RULES LEFT:"), "{printed}");
}
