//! From YAML text to [`Node`]s: the only module that knows the YAML library.
//!
//! Numbers keep their spelling, because `1.10` or `007` as an argument of a
//! program must arrive as it was written.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Location, Options, Spanned};

use super::{Node, Value};
use crate::diagnostic::{Diagnostic, Position};

pub(super) fn parse(file: &str, text: &str) -> Result<Vec<Node>, Diagnostic> {
    let documents: Vec<Spanned<Raw>> =
        serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| syntax_error(file, &error))?;
    let to_node = |raw| node(raw, text);
    Ok(documents.into_iter().map(to_node).collect())
}

/// A node before its spelling is looked up.
enum Raw {
    Null,
    Boolean(bool),
    Unsigned(u64),
    Negative(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Mapping(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Boolean(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Negative(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Raw, A::Error> {
        let mut mapping = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            mapping.push(entry);
        }
        Ok(Raw::Mapping(mapping))
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 32,
            flow_nesting_limit: 32,
            max_documents: 100_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        // Both places of a repeated key are to be reported.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

fn node(raw: Spanned<Raw>, text: &str) -> Node {
    let spelt = || spelling(raw.defined, text);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Boolean(value) => Value::Boolean(value),
        Raw::Unsigned(value) => Value::Integer(value, spelt().unwrap_or(value.to_string())),
        Raw::Negative(value) => Value::Number(spelt().unwrap_or(value.to_string())),
        Raw::Float(value) => Value::Number(spelt().unwrap_or(value.to_string())),
        Raw::Text(value) => Value::Text(value),
        Raw::List(items) => Value::List(items.into_iter().map(|item| node(item, text)).collect()),
        Raw::Mapping(entries) => {
            let entry = |(key, value)| (node(key, text), node(value, text));
            Value::Mapping(entries.into_iter().map(entry).collect())
        }
    };
    Node {
        at: position(raw.referenced),
        value,
    }
}

/// The plain scalar at `place`, as it is written. A tag would stand before it,
/// so only what can be part of a number counts.
fn spelling(place: Location, text: &str) -> Option<String> {
    let span = place.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    let written = text.get(start..start.checked_add(length)?)?.trim();
    let numeric = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-');
    (!written.is_empty() && written.chars().all(numeric)).then(|| written.to_owned())
}

fn position(place: Location) -> Position {
    Position {
        line: place.line().max(1),
        column: place.column().max(1),
    }
}

fn syntax_error(file: &str, error: &serde_saphyr::Error) -> Diagnostic {
    let at = error.location().map_or(Position::START, position);
    let error = error.without_snippet();
    if matches!(error, serde_saphyr::Error::Budget { .. }) {
        let message = "the file is too large or too deep from here on: split it into several files";
        return Diagnostic::error(file, at, message);
    }
    let rendered = error.render();
    // The library repeats the place at the end of its message.
    let place = format!(" at line {}, column {}", at.line, at.column);
    let message = rendered.trim_end().trim_end_matches(&place);
    Diagnostic::error(file, at, format!("this is not valid YAML: {message}"))
}
