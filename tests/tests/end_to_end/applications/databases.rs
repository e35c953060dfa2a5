//! PostgreSQL and MariaDB under load, while certificates are replaced.

use watchword_tests::{Mesh, MeshFile};

use super::{mesh_file, refused_by_name};
use crate::dialling::{DATABASE, write_database};
use crate::tunnels::generation;

fn pgbench(words: &[&'static str]) -> Vec<&'static str> {
    let mut command = vec!["timeout", "120", "pgbench", "--host=db", "--username=app"];
    command.extend(words);
    command.push("open");
    command
}

/// A number behind words of pgbench's report.
fn reported(said: &str, what: &str) -> u64 {
    let rest = said
        .lines()
        .find_map(|line| line.strip_prefix(what))
        .unwrap_or_else(|| panic!("{what}: {said}"));
    rest.split(['/', ' ', '(']).find_map(|word| word.parse().ok()).unwrap()
}

#[test]
fn pgbench_loses_no_transaction_while_certificates_are_replaced_and_is_refused_from_the_lab() {
    let file = mesh_file("certificates: {ttl: 4s}", DATABASE);
    write_database(&file);
    let mesh = file.up().unwrap();
    let before = generation(&mesh, "db-1");
    mesh.exec_ok("web", &pgbench(&["--initialize", "--scale=2", "--quiet"]))
        .unwrap();
    let loads = [
        &["--client=8", "--jobs=2", "--time=15", "--protocol=prepared"][..],
        // Large answers, and a connection for each transaction.
        &["--client=4", "--select-only", "--time=5"],
        &["--client=4", "--select-only", "--time=5", "--connect"],
    ];
    for load in loads {
        let said = mesh.exec_ok("web", &pgbench(load)).unwrap();
        assert_eq!(reported(&said, "number of failed transactions: "), 0, "{said}");
        assert!(
            reported(&said, "number of transactions actually processed: ") > 100,
            "{said}"
        );
    }
    assert!(generation(&mesh, "db-1") > before + 5);
    refused_by_name(&mesh, &pgbench(&["--time=1"]));
}

/// MariaDB as whoever runs it, with a user `app` whom it trusts.
const MARIADB: &str = r#"
set -eu
PATH="$PATH:/usr/sbin"
mariadb-install-db --no-defaults --datadir="$PWD/data" --auth-root-authentication-method=normal --skip-test-db >&2
printf '%s\n' "CREATE USER app@'%';" "GRANT ALL ON *.* TO app@'%';" > init.sql
exec mariadbd --no-defaults --datadir="$PWD/data" --init-file="$PWD/init.sql" --socket="$PWD/data/socket" \
    --pid-file="$PWD/data/pid" --bind-address='*' --port=3306 --skip-name-resolve --innodb-flush-log-at-trx-commit=0
"#;

pub(crate) const MARIADB_SERVICE: &str =
    "maria: {run: [sh, mariadb.sh], directory: maria, ports: {3306: tcp}, healthy: {port: 3306}}\n";

pub(crate) fn write_mariadb(file: &MeshFile) {
    file.open_folder("maria").unwrap();
    file.write("maria/mariadb.sh", MARIADB).unwrap();
}

fn mariadb(statement: &str) -> Vec<&str> {
    mariadb_at("maria", statement)
}

/// Its own client.
pub(crate) fn mariadb_at<'a>(host: &'a str, statement: &'a str) -> Vec<&'a str> {
    let mut command = vec!["mariadb", "--no-defaults", "--user=app", "--connect-timeout=20"];
    command.extend([
        "--host",
        host,
        "--database=mysql",
        "--batch",
        "--skip-column-names",
        "--execute",
        statement,
    ]);
    command
}

fn ask(mesh: &Mesh, statement: &str) -> String {
    mesh.exec_ok("web", &mariadb(statement)).unwrap()
}

#[test]
fn mariadb_greets_first_sends_large_answers_serves_a_load_and_refuses_the_lab() {
    let file = mesh_file("certificates: {ttl: 5s}", MARIADB_SERVICE);
    write_mariadb(&file);
    let mesh = file.up().unwrap();
    assert_eq!(ask(&mesh, "SELECT 6 * 7"), "42\n");
    let rows = ask(&mesh, "SELECT seq, REPEAT('x', 200) FROM seq_1_to_100000");
    assert_eq!(rows.lines().count(), 100_000);
    assert!(rows.lines().last().unwrap().starts_with("100000\txxx"));
    let load = "timeout 120 mariadb-slap --no-defaults --host=maria --user=app --concurrency=8 --iterations=2 \
                --number-of-queries=4000 --auto-generate-sql --detach=20 --csv";
    let load: Vec<_> = load.split_whitespace().collect();
    let said = mesh.exec_ok("web", &load).unwrap();
    assert!(said.contains(",8,500"), "{said}");
    refused_by_name(&mesh, &mariadb("SELECT 1"));
}
