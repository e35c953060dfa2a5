//! iperf3: as much as there is room for, in both directions.

use serde_json::Value;

use super::{mesh_file, refused_by_name};

#[test]
fn iperf3_measures_both_directions_to_the_last_byte_and_is_refused_from_the_lab() {
    let services = "measure: {run: [iperf3, --server], ports: {5201: tcp}, healthy: {port: 5201}}\n";
    let mesh = mesh_file("", services).up().unwrap();
    for (ways, bytes, streams) in [
        (&[][..], "200M", "1"),
        (&["--reverse"], "200M", "4"),
        (&["--bidir"], "50M", "2"),
    ] {
        let mut command = vec!["timeout", "100", "iperf3", "--json", "--client", "measure"];
        command.extend(["--bytes", bytes, "--parallel", streams]);
        command.extend(ways);
        let said = mesh.exec_ok("web", &command).unwrap();
        let report: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(report["error"], Value::Null, "{said}");
        let end = &report["end"];
        let ends = [
            ("sum_sent", "sum_received"),
            ("sum_sent_bidir_reverse", "sum_received_bidir_reverse"),
        ];
        let count = |key: &str| end[key]["bytes"].as_u64().unwrap();
        let ends = ends.iter().take(if ways.contains(&"--bidir") { 2 } else { 1 });
        let counts: Vec<(u64, u64)> = ends.map(|(sent, received)| (count(sent), count(received))).collect();
        // It ends when one direction is done, in the middle of what is on its way.
        assert!(counts.iter().any(|(sent, _)| *sent >= 50_000_000), "{ways:?}: {said}");
        for (sent, received) in counts {
            assert!(received > 0 && received <= sent + 4_000_000, "{ways:?}: {said}");
        }
    }
    refused_by_name(&mesh, &["iperf3", "--client", "measure", "--bytes", "1M"]);
}
