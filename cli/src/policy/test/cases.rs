//! Reads a file of cases: a YAML list, strictly.

use std::fmt::Display;

use http::{HeaderName, HeaderValue};
use spiffe::SpiffeId;
use watchword_policy::diagnostic::{Position, Report};
use watchword_policy::document::{self, Fields, Node};
use watchword_policy::{Diagnostic, Principal, parse_workload_id};

use crate::policy::question::{self, Parts, Question};

const KEYS: &[&str] = &[
    "name", "from", "to", "port", "protocol", "method", "path", "host", "headers", "grpc", "expect", "rule",
];

/// A question, and the answer that is expected.
#[derive(Debug)]
pub(super) struct Case {
    /// As it is given, or `case 3`.
    pub(super) name: String,
    pub(super) at: Position,
    pub(super) question: Question,
    pub(super) expect: Expect,
    /// Which rule must have decided: RULE or POLICY/RULE.
    pub(super) rule: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    Allow,
    Deny,
}

impl Expect {
    pub(super) fn is_allow(self) -> bool {
        self == Self::Allow
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// The cases of `text`; `file` is only named in diagnostics.
///
/// # Errors
/// Everything that is wrong, in the order of the file.
pub(super) fn read(file: &str, text: &str) -> Result<Vec<Case>, Vec<Diagnostic>> {
    let documents = document::parse(file, text).map_err(|error| vec![error])?;
    let mut report = Report::new(file);
    let mut nodes = Vec::new();
    for document in &documents {
        nodes.extend(document.list("cases", &mut report).unwrap_or_default());
    }
    if nodes.is_empty() {
        report.error(Position::START, "there is no case in this file");
    }
    let numbered = nodes.into_iter().enumerate();
    let cases: Vec<Option<Case>> = numbered
        .map(|(index, node)| read_case(node, index + 1, &mut report))
        .collect();
    report.finish(cases.into_iter().collect()).map(|(cases, _)| cases)
}

fn read_case(node: &Node, number: usize, report: &mut Report) -> Option<Case> {
    let fields = node.fields("a case", KEYS, report)?;
    let name = optional(&fields, "name", |node| Some(node.text("a name", report)?.to_owned()));
    let question = read_question(&fields, report);
    let expect = fields
        .required("expect", "what is to be decided, `allow` or `deny`", report)
        .and_then(|expect| read_expect(expect, report));
    let rule = optional(&fields, "rule", |node| {
        let expected = "the name of a rule, as RULE or POLICY/RULE";
        Some(node.text(expected, report)?.to_owned())
    });
    Some(Case {
        name: name?.unwrap_or_else(|| format!("case {number}")),
        at: node.at,
        question: question?,
        expect: expect?,
        rule: rule?,
    })
}

fn read_question(fields: &Fields<'_>, report: &mut Report) -> Option<Question> {
    let from = fields
        .required("from", "who calls, a SPIFFE ID or `unauthenticated`", report)
        .and_then(|from| parsed(from, "a SPIFFE ID", str::parse::<Principal>, report));
    let to = read_id(fields, "to", "who is called, a SPIFFE ID", report);
    let port = fields
        .required("port", "the port that is called", report)
        .and_then(|port| port.integer(1..=u16::MAX, "a port", report));
    let protocol = optional(fields, "protocol", |node| {
        parsed(node, "a protocol", question::protocol, report)
    });
    let parts = read_parts(fields, report);
    let (sent, suggested) = parts?.into_sent();
    Some(Question {
        from: from?,
        to: to?,
        port: port?,
        protocol: protocol?,
        suggested,
        sent,
    })
}

fn read_parts(fields: &Fields<'_>, report: &mut Report) -> Option<Parts> {
    let method = optional(fields, "method", |node| Some(node.text("a method", report)?.to_owned()));
    let path = optional(fields, "path", |node| parsed(node, "a path", question::path, report));
    let host = optional(fields, "host", |node| Some(node.text("a host", report)?.to_owned()));
    let headers = optional(fields, "headers", |node| read_headers(node, report));
    let grpc = optional(fields, "grpc", |node| {
        parsed(node, "SERVICE/METHOD", question::grpc, report)
    });
    let excluded = ["method", "path"].iter().find_map(|key| fields.place_of(key));
    if let Some(at) = excluded.filter(|_| fields.place_of("grpc").is_some()) {
        report.error(at, "`grpc` says method and path: remove one of them");
        return None;
    }
    Some(Parts {
        method: method?,
        path: path?,
        host: host?,
        headers: headers?.unwrap_or_default(),
        grpc: grpc?,
    })
}

fn read_headers(node: &Node, report: &mut Report) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let entries = node.entries("headers by name", report)?;
    let headers: Vec<Option<(HeaderName, HeaderValue)>> = entries
        .into_iter()
        .map(|(key, value)| {
            let name = key.scalar("the name of a header", report);
            let text = value.scalar("the value of a header", report);
            match question::named_header(name?, text?) {
                Ok(header) => Some(header),
                Err(error) => {
                    report.error(key.at, error);
                    None
                }
            }
        })
        .collect();
    headers.into_iter().collect()
}

fn read_id(fields: &Fields<'_>, key: &str, hint: &str, report: &mut Report) -> Option<SpiffeId> {
    let node = fields.required(key, hint, report)?;
    parsed(node, "a SPIFFE ID", parse_workload_id, report)
}

fn read_expect(node: &Node, report: &mut Report) -> Option<Expect> {
    let expected = "`allow` or `deny`";
    match node.text(expected, report)? {
        "allow" => Some(Expect::Allow),
        "deny" => Some(Expect::Deny),
        _ => {
            node.mismatch(expected, report);
            None
        }
    }
}

/// `Some(None)` where the key is not there, `None` where its value is wrong.
fn optional<'n, T>(fields: &Fields<'n>, key: &str, read: impl FnOnce(&'n Node) -> Option<T>) -> Option<Option<T>> {
    match fields.optional(key) {
        Some(node) => read(node).map(Some),
        None => Some(None),
    }
}

fn parsed<T, E: Display>(
    node: &Node,
    expected: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
    report: &mut Report,
) -> Option<T> {
    let text = node.text(expected, report)?;
    match parse(text) {
        Ok(value) => Some(value),
        Err(error) => {
            report.error(node.at, format!("{}: {error}", node.describe()));
            None
        }
    }
}
