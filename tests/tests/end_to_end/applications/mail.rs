//! A mail server: it speaks first.

use super::{mesh_file, refused_by_name};
use watchword_tests::{Mesh, MeshFile, wait_until};

/// Exim as whoever runs it, with a mailbox per receiver in `$PWD`.
const EXIM: &str = r#"
set -eu
mkdir spool log box
cat > exim.conf <<CONF
exim_user = $(id -u)
exim_group = $(id -g)
primary_hostname = mail.example.org
spool_directory = $PWD/spool
log_file_path = $PWD/log/%s
pid_file_path =
acl_smtp_rcpt = accept
acl_smtp_data = accept
rfc1413_query_timeout = 0s
tls_advertise_hosts =
deliver_drop_privilege = true
keep_environment =
begin routers
all:
  driver = accept
  transport = box
begin transports
box:
  driver = appendfile
  file = $PWD/box/inbox
CONF
PATH="$PATH:/usr/sbin"
exec exim4 -C "$PWD/exim.conf" -bdf -oX 2525
"#;

const SERVICE: &str = "mail: {run: [sh, exim.sh], directory: mail, ports: {2525: tcp}, healthy: {port: 2525}}\n";

fn write_exim(file: &MeshFile) {
    file.open_folder("mail").unwrap();
    file.write("mail/exim.sh", EXIM).unwrap();
}

/// Sends a mail of so many lines by curl.
fn send(mail: &str) -> Vec<&str> {
    let mut command = vec![
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        "smtp://mail:2525",
    ];
    command.extend(["--mail-from", "web@example.org", "--mail-rcpt", "inbox@example.org"]);
    command.extend(["--upload-file", mail]);
    command
}

fn inbox(mesh: &Mesh) -> String {
    std::fs::read_to_string(mesh.file().folder().join("mail/box/inbox")).unwrap_or_default()
}

#[test]
fn exim_greets_first_takes_small_and_large_mails_and_refuses_the_lab() {
    let file = mesh_file("", SERVICE);
    write_exim(&file);
    let small = file.write("small", "Subject: small\r\n\r\nhello\r\n").unwrap();
    let body: String = (0..200_000).map(|number| format!("line {number}\r\n")).collect();
    let large = file.write("large", &format!("Subject: large\r\n\r\n{body}")).unwrap();
    let mesh = file.up().unwrap();
    for mail in [&small, &large] {
        mesh.exec_ok("web", &send(mail.to_str().unwrap())).unwrap();
    }
    wait_until("both mails to be delivered", || {
        let inbox = inbox(&mesh);
        inbox.contains("Subject: small") && inbox.contains("\nline 199999\n")
    })
    .unwrap();
    assert!(
        inbox(&mesh).contains(&body.replace("\r\n", "\n")),
        "the large mail is another one"
    );
    refused_by_name(&mesh, &send(small.to_str().unwrap()));
    assert_eq!(inbox(&mesh).matches("Subject: small").count(), 1);
}
