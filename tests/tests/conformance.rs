//! docs/spiffe-conformance.md names tests that exist, and says of each demand
//! by what it is shown.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};

const PAGE: &str = include_str!("../../docs/spiffe-conformance.md");

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The rows of the page's tables, without their heads.
fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    PAGE.lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| § ") && !line.starts_with("| --- "))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
}

/// What stands between backticks and reads as FILE.rs::NAME.
fn named(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once(".rs::").map(|_| code.rsplit_once("::").unwrap()))
}

/// Whether a file has a test of that name: an attribute that ends in `test]`
/// or has arguments, above a function.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_test = |line: &&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    let function = format!("fn {name}(");
    lines.iter().enumerate().any(|(index, line)| {
        let above = lines[..index].iter().rev().take_while(|line| line.starts_with("#["));
        line.trim_start_matches("async ").starts_with(&function) && above.copied().any(|line| is_test(&line))
    })
}

#[test]
fn each_test_that_the_page_names_exists() {
    let mut count = 0;
    for (file, name) in named(PAGE) {
        let text = std::fs::read_to_string(repository().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(has_test(&text, name), "{file} has no test {name}");
        count += 1;
    }
    assert!(count > 50, "{count} tests are named: how are they written?");
}

#[test]
fn each_demand_has_a_test_or_says_why_it_has_none() {
    for row in rows() {
        let [section, demand, what, shown] = row[..] else {
            panic!("four cells: {row:?}")
        };
        assert!(!section.is_empty() && !demand.is_empty() && !what.is_empty(), "{row:?}");
        let is_honest = ["not met", "not ours"].iter().any(|word| shown.starts_with(word));
        assert!(is_honest || named(shown).next().is_some(), "{row:?}");
    }
    assert!(rows().count() > 60);
}

#[test]
fn a_name_counts_when_it_is_a_tests() {
    let text = "/// fn described(\nfn helper() {}\n#[test]\nfn shown() {}\n\n    #[tokio::test(start_paused = true)]\n    \
                #[ignore]\n    async fn paused() {}\n";
    for (name, expected) in [
        ("shown", true),
        ("paused", true),
        ("helper", false),
        ("described", false),
        ("show", false),
    ] {
        assert_eq!(has_test(text, name), expected, "{name}");
    }
}
