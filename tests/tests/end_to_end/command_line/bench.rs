//! `bench` measures, and leaves nothing behind.

use serde_json::Value;

use super::watchword;

#[test]
fn bench_measures_both_ways_and_leaves_nothing_behind() {
    let finished = watchword().args(["bench", "-o", "json"]).output().unwrap();
    let said = String::from_utf8_lossy(&finished.stderr).into_owned();
    assert!(finished.status.success(), "{said}");
    let measures: Value = serde_json::from_slice(&finished.stdout).unwrap();
    for (name, measure) in measures.as_object().unwrap() {
        for side in ["plain", "mtls"] {
            assert!(measure[side].as_f64().unwrap() > 0.0, "{name}: {measure}");
        }
    }
    assert_eq!(measures.as_object().unwrap().len(), 7);
    // Plain TCP that went through sidecars would cost as much.
    assert!(measures["p50_us"]["ratio"].as_f64().unwrap() > 1.2, "{measures}");
    assert!(said.contains("round 3 of 3"), "{said}");
    let left = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let of_bench = |name: &str| name.starts_with("watchword-bench-");
    assert_eq!(
        left.filter(|it| it.file_name().to_str().is_some_and(of_bench)).count(),
        0
    );
}
