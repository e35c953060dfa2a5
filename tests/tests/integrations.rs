//! docs/integrations.md shows what is tested: its blocks are parts of the files
//! that they name.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::Path;

const PAGE: &str = include_str!("../../docs/integrations.md");
const MARK: &str = "<!-- from ";

/// Each file with the lines of a block.
fn blocks() -> Vec<(&'static str, Vec<&'static str>)> {
    let block = |text: &'static str| {
        let (file, rest) = text.split_once(" -->\n```").unwrap();
        let (_language, rest) = rest.split_once('\n').unwrap();
        let (block, _) = rest.split_once("```").unwrap();
        (file, block.lines().collect())
    };
    PAGE.split(MARK).skip(1).map(block).collect()
}

/// Without the indentation that all of them share.
fn flush<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let indent = |line: &&str| line.len() - line.trim_start().len();
    let filled = lines.iter().filter(|line| !line.trim().is_empty());
    let shared = filled.map(indent).min().unwrap_or(0);
    lines.iter().map(|line| line.get(shared..).unwrap_or("")).collect()
}

fn is_part(block: &[&str], text: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let block = flush(block);
    lines.windows(block.len()).any(|window| flush(window) == block)
}

#[test]
fn each_block_is_a_part_of_the_tested_file_that_it_names() {
    let blocks = blocks();
    assert!(blocks.len() >= 8, "{}", blocks.len());
    for (file, block) in blocks {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(block.len() <= 10, "{file}: {} lines are not ten", block.len());
        assert!(
            is_part(&block, &text),
            "{file} has no such lines:\n{}",
            block.join("\n")
        );
    }
}

#[test]
fn a_part_may_be_indented_as_a_whole_and_not_otherwise() {
    let text = "a:\n  b:\n    c\n";
    assert!(is_part(&["b:", "  c"], text));
    assert!(!is_part(&["b:", "c"], text));
    assert!(!is_part(&["b:", "  d"], text));
}
