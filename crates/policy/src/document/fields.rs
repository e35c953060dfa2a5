//! Typed access to the nodes of a document. Each access reports what it
//! expected and found, and goes on.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use super::{Node, Value};
use crate::diagnostic::{Position, Report};

/// A mapping with known keys, each there at most once.
#[derive(Debug)]
pub struct Fields<'n> {
    at: Position,
    what: &'static str,
    found: BTreeMap<&'static str, (Position, &'n Node)>,
}

impl<'n> Fields<'n> {
    /// Where the mapping begins.
    #[must_use]
    pub fn at(&self) -> Position {
        self.at
    }

    /// The value of `key`, if it is there.
    #[must_use]
    pub fn optional(&self, key: &str) -> Option<&'n Node> {
        self.found.get(key).map(|(_, value)| *value)
    }

    /// The value of `key`; reports an error with `hint` if it is not there.
    pub fn required(&self, key: &str, hint: &str, report: &mut Report) -> Option<&'n Node> {
        let value = self.optional(key);
        if value.is_none() {
            let message = format!("`{key}` is missing in {}: {hint}", self.what);
            report.error(self.at, message);
        }
        value
    }

    /// Where `key` itself stands, if it is there.
    #[must_use]
    pub fn place_of(&self, key: &str) -> Option<Position> {
        self.found.get(key).map(|(at, _)| *at)
    }
}

impl Node {
    /// A mapping of which all keys are in `known`. Unknown and repeated keys
    /// are reported and left out. `what` names the mapping: `a policy`.
    pub fn fields<'n>(
        &'n self,
        what: &'static str,
        known: &'static [&'static str],
        report: &mut Report,
    ) -> Option<Fields<'n>> {
        let mut found = BTreeMap::new();
        for (key, value) in self.entries(what, report)? {
            let Some(name) = key.text("a key", report) else {
                continue;
            };
            match known.iter().find(|candidate| **candidate == name) {
                Some(known) => {
                    found.insert(*known, (key.at, value));
                }
                None => report.error(key.at, unknown_key(name, what, known)),
            }
        }
        Some(Fields {
            at: self.at,
            what,
            found,
        })
    }

    /// The entries of a mapping whose keys are free. Repeated keys are
    /// reported and left out.
    pub fn entries<'n>(&'n self, expected: &str, report: &mut Report) -> Option<Vec<(&'n Node, &'n Node)>> {
        let Value::Mapping(entries) = &self.value else {
            self.mismatch(&format!("{expected} (a mapping)"), report);
            return None;
        };
        let mut first_places = HashMap::new();
        let mut kept = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let repeated = key
                .spelling()
                .and_then(|name| Some((name, first_places.insert(name, key.at)?)));
            match repeated {
                None => kept.push((key, value)),
                Some((name, first)) => {
                    first_places.insert(name, first);
                    let message = format!("`{name}` is given twice, first on line {}: keep one", first.line);
                    report.error(key.at, message);
                }
            }
        }
        Some(kept)
    }

    /// The items of a list.
    pub fn list<'n>(&'n self, expected: &str, report: &mut Report) -> Option<&'n [Node]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => {
                self.mismatch(&format!("{expected} (a list)"), report);
                None
            }
        }
    }

    /// A text. What reads as a number or a boolean must stand in quotes.
    pub fn text<'n>(&'n self, expected: &str, report: &mut Report) -> Option<&'n str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Boolean(_) | Value::Integer(..) | Value::Number(_) => {
                let found = self.describe();
                report.error(
                    self.at,
                    format!("expected {expected}, found {found}: put it in quotes if it is meant"),
                );
                None
            }
            _ => {
                self.mismatch(expected, report);
                None
            }
        }
    }

    /// Any scalar as it is written, so that `8080` serves as a text too.
    pub fn scalar<'n>(&'n self, expected: &str, report: &mut Report) -> Option<&'n str> {
        let spelling = self.spelling();
        if spelling.is_none() {
            self.mismatch(expected, report);
        }
        spelling
    }

    /// `true` or `false`.
    pub fn boolean(&self, report: &mut Report) -> Option<bool> {
        match self.value {
            Value::Boolean(value) => Some(value),
            _ => {
                self.mismatch("`true` or `false`", report);
                None
            }
        }
    }

    /// A whole number within `range`, which `expected` names: `a port`.
    pub fn integer(&self, range: RangeInclusive<u16>, expected: &str, report: &mut Report) -> Option<u16> {
        let value = match self.value {
            Value::Integer(value, _) => u16::try_from(value).ok().filter(|value| range.contains(value)),
            _ => None,
        };
        if value.is_none() {
            let (start, end) = range.into_inner();
            self.mismatch(&format!("{expected} from {start} to {end}"), report);
        }
        value
    }

    /// Reports that `expected` was expected here.
    pub fn mismatch(&self, expected: &str, report: &mut Report) {
        report.error(self.at, format!("expected {expected}, found {}", self.describe()));
    }

    fn spelling(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) | Value::Integer(_, text) | Value::Number(text) => Some(text),
            Value::Boolean(true) => Some("true"),
            Value::Boolean(false) => Some("false"),
            Value::Null | Value::List(_) | Value::Mapping(_) => None,
        }
    }
}

fn unknown_key(name: &str, what: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(near) => format!("unknown key `{name}` in {what}: did you mean `{near}`?"),
        None => format!("unknown key `{name}` in {what}: expected {}", one_of(known)),
    }
}

/// `` `a`, `b` or `c` ``.
pub(crate) fn one_of(choices: &[&str]) -> String {
    let quoted: Vec<String> = choices.iter().map(|choice| format!("`{choice}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "nothing".to_owned(),
    }
}

/// The candidate that `name` is probably a misspelling of.
fn nearest<'c>(name: &str, candidates: &[&'c str]) -> Option<&'c str> {
    const LONGEST: usize = 40;
    if name.chars().count() > LONGEST {
        return None;
    }
    let name = folded(name);
    let scored = candidates.iter().map(|candidate| {
        let folded = folded(candidate);
        let distance = edit_distance(&name, &folded);
        (distance, folded.len(), *candidate)
    });
    let (distance, length, candidate) = scored.min_by_key(|(distance, ..)| *distance)?;
    (distance <= length.div_ceil(3).min(3)).then_some(candidate)
}

/// Lower case, without what separates words: `trust_domain` is `trustDomain`.
fn folded(name: &str) -> Vec<char> {
    let word = |c: &char| !matches!(c, '_' | '-');
    name.chars().filter(word).flat_map(char::to_lowercase).collect()
}

/// Levenshtein distance.
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
