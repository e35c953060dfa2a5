#![allow(clippy::unwrap_used)]
use super::*;

const SMALLEST: &str = "controlPlane: {address: 'unix:/run/watchword/control.sock', \
    id: 'spiffe://example.org/watchword/control-plane', bundleFile: /run/watchword/bundle.pem}\n\
    attestation: {tokenFile: '-'}\n";

#[test]
fn the_smallest_file_is_enough() {
    let config = Config::parse("proxy.yaml", SMALLEST).unwrap();
    assert_eq!(config.workers, 1);
    assert_eq!(config.health_listen().port(), 15020);
    assert_eq!(config.interception.loop_protection, LoopProtection::Uid);
}

#[test]
fn the_app_is_dialled_from_where_the_right_is_there() {
    let dial_from = |keys: &str| {
        let text = format!("{SMALLEST}interception: {{{keys}}}\n");
        Config::parse("proxy.yaml", &text).unwrap().interception.dial_from()
    };
    assert_eq!(dial_from(""), DialFrom::Reserved);
    assert_eq!(dial_from("loopProtection: mark"), DialFrom::Client);
    assert_eq!(dial_from("loopProtection: mark, dialFrom: own"), DialFrom::Own);
}

#[test]
fn the_example_in_deploy_is_valid() {
    let text = include_str!("../../../deploy/proxy.yaml");
    let config = Config::parse("deploy/proxy.yaml", text).unwrap();
    assert!(config.tracing.is_some());
    assert_eq!(
        config.workload_socket(),
        Some("/run/watchword/workload.sock".into()),
        "it shows every section"
    );
    assert_eq!(config.workload_api.unwrap().callers.len(), 2);
}

fn with(lines: &str) -> Config {
    Config::parse("proxy.yaml", &format!("{SMALLEST}{lines}")).unwrap()
}

#[test]
fn there_is_a_workload_socket_only_for_somebody_and_in_the_run_folder_unless_told_otherwise() {
    let table = [
        ("", None),
        ("runDir: /tmp/x\n", None),
        (
            "workloadApi: {callers: [{uid: 7}]}\n",
            Some("/run/watchword/workload.sock"),
        ),
        (
            "workloadApi: {callers: [{uid: 7}]}\nrunDir: /tmp/x\n",
            Some("/tmp/x/workload.sock"),
        ),
        (
            "workloadApi: {callers: [{uid: 7}], socket: /run/w/api.sock}\nrunDir: /tmp/x\n",
            Some("/run/w/api.sock"),
        ),
    ];
    for (lines, expected) in table {
        assert_eq!(with(lines).workload_socket(), expected.map(PathBuf::from), "{lines}");
    }
}

#[test]
fn callers_are_any_user_or_one_with_the_proxys_id_or_another() {
    let caller = |uid, id: Option<&str>| WorkloadCaller {
        uid,
        id: id.map(|id| SpiffeIdText(SpiffeId::new(id).unwrap())),
    };
    let web = "spiffe://example.org/web";
    let table = [
        ("uid: any", caller(User::Any, None)),
        ("uid: 0", caller(User::Uid(0), None)),
        ("uid: 4294967294", caller(User::Uid(u32::MAX - 1), None)),
        ("uid: '1000'", caller(User::Uid(1000), None)),
        (
            "uid: 1000, id: 'spiffe://example.org/web'",
            caller(User::Uid(1000), Some(web)),
        ),
    ];
    for (keys, expected) in table {
        let config = with(&format!("workloadApi: {{callers: [{{{keys}}}]}}\n"));
        assert_eq!(config.workload_api.unwrap().callers, [expected], "{keys}");
    }
    // One user may have several.
    let several = "workloadApi: {callers: [{uid: 7}, {uid: 7, id: 'spiffe://td/a'}, {uid: any}]}\n";
    assert_eq!(with(several).workload_api.unwrap().callers.len(), 3);
}

#[test]
fn an_agent_needs_callers_and_nothing_to_capture() {
    assert_eq!(with("").role, Role::Sidecar);
    assert_eq!(
        with("role: sidecar\ninterception: {scope: namespace}\n").role,
        Role::Sidecar
    );
    let agent = with("role: agent\nworkloadApi: {callers: [{uid: any}]}\n");
    assert_eq!(agent.role, Role::Agent);
}

#[test]
fn the_agent_in_deploy_is_valid() {
    let text = include_str!("../../../deploy/agent.yaml");
    let config = Config::parse("deploy/agent.yaml", text).unwrap();
    assert_eq!(config.role, Role::Agent);
    assert_eq!(config.workload_socket(), Some("/run/watchword/workload.sock".into()));
}

#[test]
fn mistakes_are_named_with_their_place() {
    let table = [
        ("wrkers: 2\n", "proxy.yaml:3:1: "),
        ("workers: 0\n", "proxy.yaml: workers: 0 is not between 1 and 64"),
        ("workers: many\n", "proxy.yaml:3:10: "),
        (
            "role: agent\n",
            "proxy.yaml: role: agent serves the workload socket alone",
        ),
        (
            "role: agent\nworkloadApi: {callers: [{uid: 7}]}\ninterception: {scope: namespace}\n",
            "proxy.yaml: role: agent captures nothing",
        ),
        (
            "workloadApi: {callers: []}\n",
            "proxy.yaml: workloadApi: `callers` is empty",
        ),
        ("workloadApi: {}\n", "proxy.yaml:3:"),
        ("workloadApi: {callers: [{}]}\n", "proxy.yaml:3:"),
        ("workloadApi: {callers: [{id: 'spiffe://td/a'}]}\n", "proxy.yaml:3:"),
        ("workloadApi: {callers: [{uid: 7, gid: 7}]}\n", "proxy.yaml:3:34: "),
        ("workloadApi: {callers: [{uid: 7}], path: /x}\n", "proxy.yaml:3:36: "),
        ("workloadApi: {callers: [{uid: 4294967296}]}\n", "proxy.yaml:3:31: "),
        ("workloadApi: {callers: [{uid: Any}]}\n", "proxy.yaml:3:31: "),
        ("role: gateway\n", "proxy.yaml:3:7: "),
        ("workloadApi: {callers: [{uid: nobody}]}\n", "proxy.yaml:3:31: "),
        ("workloadApi: {callers: [{uid: -1}]}\n", "proxy.yaml:3:31: "),
        ("workloadApi: {callers: [{uid: 7, id: web}]}\n", "proxy.yaml:3:38: "),
        (
            "workloadApi: {callers: [{uid: 7}, {uid: 7}]}\n",
            "proxy.yaml: workloadApi: `callers` names",
        ),
        ("interception: {excludeOutboundRanges: [10/99]}\n", "proxy.yaml:3:"),
        ("interception: {dialFrom: 127.0.0.6}\n", "proxy.yaml:3:"),
        ("tracing: {}\n", "proxy.yaml:3:"),
        ("tracing: {address: 'unix:otel.sock'}\n", "proxy.yaml:3:20: "),
        ("tracing: {address: 'otel:4317', ratio: 1}\n", "proxy.yaml:3:33: "),
        (
            "tracing: {address: 'otel:4317', sampleRatio: 1.01}\n",
            "proxy.yaml: tracing: sampleRatio: 1.01 is not between 0 and 1",
        ),
        (
            "tracing: {address: 'otel:4317', sampleRatio: .nan}\n",
            "proxy.yaml: tracing: sampleRatio: NaN is not between 0 and 1",
        ),
    ];
    for (line, expected) in table {
        let error = Config::parse("proxy.yaml", &format!("{SMALLEST}{line}"))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn one_trace_in_a_hundred_is_recorded_unless_somebody_says_otherwise() {
    let tracing = |keys: &str| {
        let text = format!("{SMALLEST}tracing: {{address: 'unix:/run/otel.sock'{keys}}}\n");
        Config::parse("proxy.yaml", &text).unwrap().tracing.unwrap()
    };
    assert_eq!(tracing("").address, Address::Unix("/run/otel.sock".into()));
    let ratios =
        ["", ", sampleRatio: 0", ", sampleRatio: 1", ", sampleRatio: 0.5"].map(|keys| tracing(keys).sample_ratio);
    assert_eq!(ratios, [0.01, 0.0, 1.0, 0.5]);
    assert!(Config::parse("proxy.yaml", SMALLEST).unwrap().tracing.is_none());
}
