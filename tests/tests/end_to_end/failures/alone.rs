//! A control plane and a sidecar that nobody starts again, each in namespaces
//! of its own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use watchword_tests::{Output, binary, is_root, run, wait_until};

/// Mounts a small file system as the state folder, and does to it and to the
/// control plane what standard input says.
const ON_A_SMALL_DISK: &str = r#"
set -eu
program=$1 config=$2 state=$3
mkdir -p "$state"
mount -t tmpfs -o size=256k,mode=0700 watchword "$state"
while read -r order; do
    case $order in
        start) "$program" run --config "$config" & plane=$!;;
        stop) kill "$plane"; wait "$plane" || true;;
        wait) wait "$plane" || echo "it ended with $?";;
        fill) dd if=/dev/zero of="$state/ballast" bs=4k 2>&- || true;;
        free) rm "$state/ballast";;
    esac
    echo "DONE $order"
done
kill "$plane"
wait "$plane"
"#;

pub(super) fn page_of(socket: &Path, path: &str) -> String {
    let mut get = Command::new("curl");
    get.args(["--silent", "--max-time", "20", "--noproxy", "*", "--unix-socket"])
        .arg(socket)
        .arg(format!("http://sidecar{path}"));
    // Empty where nobody listens.
    String::from_utf8_lossy(&get.output().unwrap().stdout).into_owned()
}

#[allow(clippy::disallowed_methods, reason = "certificates end by the wall clock")]
pub(super) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// A process in namespaces of its own; killed when it is dropped.
struct Inside {
    child: Child,
    output: Output,
}

impl Inside {
    fn start(kind: &str, command: &[&str]) -> Self {
        let mut unshare = Command::new("unshare");
        if !is_root() {
            unshare.args(["--user", "--map-root-user"]);
        }
        let mut child = unshare
            .args([kind, "--kill-child", "--fork", "--"])
            .args(command)
            .env("WATCHWORD_LOG", "info")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = Output::of(&mut child);
        Self { child, output }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // `unshare` hands SIGTERM to nobody, but takes its child along.
        let _ = kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap_or_default()),
            Signal::SIGKILL,
        );
        let _ = self.child.wait();
    }
}

struct Plane {
    folder: TempDir,
    inside: Inside,
}

impl Plane {
    /// Nothing is started yet.
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("watchword-test-").tempdir().unwrap();
        let text = "trustDomain: example.org\nstateDir: state\nrunDir: run\npolicies: []\n\
                    services:\n  web: {ports: {8080: tcp}, endpoints: []}\n";
        let config = folder.path().join("mesh.yaml");
        std::fs::write(&config, text).unwrap();
        let program = binary("watchword-control-plane").unwrap();
        let state = folder.path().join("state");
        let paths = [&program, &config, &state].map(|path| path.to_str().unwrap().to_owned());
        let mut command = vec!["sh", "-c", ON_A_SMALL_DISK, "sh"];
        command.extend(paths.iter().map(String::as_str));
        Self {
            inside: Inside::start("--mount", &command),
            folder,
        }
    }

    fn order(&mut self, order: &str) {
        let done = format!("DONE {order}");
        let count = |this: &Self| this.text().lines().filter(|line| *line == done).count();
        let before = count(self);
        self.begin(order);
        wait_until(&done, || count(self) > before).unwrap_or_else(|error| panic!("{error}\n{}", self.text()));
    }

    fn begin(&mut self, order: &str) {
        writeln!(self.inside.child.stdin.as_ref().unwrap(), "{order}").unwrap();
    }

    /// Waits until it has started `times` times.
    fn start(&mut self, times: usize) {
        self.begin("start");
        let ready = || self.inside.output.text().matches("control plane ready").count();
        wait_until("the control plane", || ready() == times).unwrap_or_else(|error| panic!("{error}\n{}", self.text()));
    }

    fn text(&self) -> String {
        self.inside.output.text()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn token_command(&self) -> Command {
        let mut create = Command::new(binary("watchword").unwrap());
        create.args(["token", "create", "--id", "spiffe://example.org/web", "--admin"]);
        create.arg(self.path("run/admin.sock"));
        create
    }

    fn token(&self) -> String {
        run(&mut self.token_command()).unwrap()
    }

    /// A sidecar of `web` with this token.
    fn sidecar(&self, token: &str) -> Sidecar {
        let run_dir = self.path("sidecar");
        let folder = self.folder.path().display();
        std::fs::write(self.path("token"), token).unwrap();
        let config = self.path("proxy.yaml");
        let text = format!(
            "controlPlane: {{address: 'unix:{folder}/run/control.sock', \
             id: 'spiffe://example.org/watchword/control-plane', bundleFile: '{folder}/run/bundle.pem'}}\n\
             attestation: {{tokenFile: '{folder}/token'}}\n\
             interception: {{scope: namespace, loopProtection: mark}}\nrunDir: '{folder}/sidecar'\n"
        );
        std::fs::write(&config, text).unwrap();
        let proxy = binary("watchword-proxy").unwrap();
        let command = [proxy.to_str().unwrap(), "run", "--config", config.to_str().unwrap()];
        Sidecar {
            inside: Inside::start("--net", &command),
            socket: run_dir.join("proxy-admin.sock"),
        }
    }
}

struct Sidecar {
    inside: Inside,
    socket: PathBuf,
}

impl Sidecar {
    fn says(&self, what: &str) {
        wait_until(what, || page_of(&self.socket, "/readyz").contains(what)).unwrap_or_else(|error| {
            panic!(
                "{error}\n{}\n{}",
                page_of(&self.socket, "/readyz"),
                self.inside.output.text()
            )
        });
    }
}

#[test]
fn a_sidecar_that_starts_without_the_control_plane_says_so_and_gets_ready_by_itself() {
    let mut plane = Plane::new();
    plane.start(1);
    let token = plane.token();
    plane.order("stop");
    let sidecar = plane.sidecar(&token);
    sidecar.says("can't be reached");
    sidecar.says("policies: none received yet");
    plane.start(2);
    sidecar.says("ok\n");
}

#[test]
fn a_full_disk_fails_what_must_be_written_and_harms_nothing() {
    let mut plane = Plane::new();
    plane.start(1);
    let token = plane.token();
    plane.order("fill");
    let refused = crate::apps::complaint(&plane.token_command().output().unwrap());
    assert!(
        refused.contains("the control plane says: can't write") && refused.contains("No space left on device"),
        "{refused}"
    );
    // Who asks for a certificate is told, and asks again.
    let sidecar = plane.sidecar(&token);
    sidecar.says("the control plane can't write its state");
    let said = plane.text();
    assert!(
        said.contains("state.redb") && said.contains("No space left on device"),
        "{said}"
    );
    // A start writes, too: it fails, and says why.
    plane.order("stop");
    plane.begin("start");
    plane.order("wait");
    assert!(plane.text().contains("it ended with 1"), "{}", plane.text());
    plane.order("free");
    plane.start(2);
    // By the token that was made before the disk was full.
    sidecar.says("ok\n");
    assert!(plane.token().starts_with("wwjt-"));
}
