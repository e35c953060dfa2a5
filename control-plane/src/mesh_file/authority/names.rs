//! Names that become parts of a path in Vault's API.

use watchword_policy::diagnostic::Report;
use watchword_policy::document::Node;

/// Nothing that would have to be escaped.
fn is_segment(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !text.is_empty() && text.chars().all(plain) && !text.chars().all(|c| c == '.')
}

/// One part.
pub(super) fn segment(node: &Node, expected: &str, report: &mut Report) -> Option<String> {
    parts(node, expected, false, report)
}

/// One part or several.
pub(super) fn slashed(node: &Node, expected: &str, report: &mut Report) -> Option<String> {
    parts(node, expected, true, report)
}

fn parts(node: &Node, expected: &str, may_have_several: bool, report: &mut Report) -> Option<String> {
    const MAX: usize = 256;
    let text = node.text(expected, report)?;
    let several = text.split('/').all(is_segment);
    if text.len() > MAX || !several || (!may_have_several && text.contains('/')) {
        node.mismatch(&format!("{expected} (letters, digits, `_`, `-` and `.`)"), report);
        return None;
    }
    Some(text.to_owned())
}
