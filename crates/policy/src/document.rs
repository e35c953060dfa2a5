//! A YAML document as a tree whose nodes know where they stand.
//!
//! Typed deserialisation stops at the first mistake; a tree lets a reader
//! report all mistakes of a file, each at its place. Invariants: parsing never
//! panics, and what it allocates is bounded by the size of the text and by
//! fixed limits on depth, nodes and alias expansion. It knows no schema: the
//! typed access of `fields` takes that from its caller.

mod fields;
mod raw;

pub use fields::Fields;

use crate::diagnostic::{Diagnostic, Position};

/// The largest file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// A node of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins; for an alias (`*a`), where that stands.
    pub at: Position,
    /// What it holds.
    pub value: Value,
}

/// What a [`Node`] holds. Booleans are those of YAML 1.2 (`yes` is a text).
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, `~`, or nothing at all.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// A number that is not negative and fits, and how it is spelt.
    Integer(u64, String),
    /// Any other number, as it is spelt.
    Number(String),
    /// A text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// Keys and values in the order of the file. Keys may repeat: whoever
    /// reads them must refuse that ([`Node::fields`] and [`Node::entries`] do).
    Mapping(Vec<(Node, Node)>),
}

/// Parses all documents of `text`; empty ones are left out. `file` is only
/// named in the error.
///
/// # Errors
/// The first mistake of syntax, or the limit that was passed: nesting above
/// 32, more than 250,000 nodes, 16 MiB of text, or aliases that multiply.
pub fn parse(file: &str, text: &str) -> Result<Vec<Node>, Diagnostic> {
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large(file));
    }
    raw::parse(file, text)
}

/// The error for a file above [`MAX_FILE_BYTES`], also for one that was not
/// read for that reason.
#[must_use]
pub fn too_large(file: &str) -> Diagnostic {
    let message = format!("the file is larger than {} MiB: split it", MAX_FILE_BYTES >> 20);
    Diagnostic::error(file, Position::START, message)
}

impl Node {
    /// What it is, for people: `the text "x"`, `a list`.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Boolean(value) => format!("`{value}`"),
            Value::Integer(_, text) | Value::Number(text) => {
                format!("the number {}", excerpt(text))
            }
            Value::Text(text) => format!("\"{}\"", excerpt(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

/// At most 60 characters of a text, for messages.
fn excerpt(text: &str) -> String {
    const LIMIT: usize = 60;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
