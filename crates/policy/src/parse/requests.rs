//! Reads the `http` and the `grpc` block of a rule.
//!
//! Invariant: a block that can't be read whole is an error. A rule that lost a
//! part of it would match more requests than it says.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;

use super::Side;
use super::list::List;
use crate::diagnostic::{Position, Report};
use crate::document::{Fields, Node, Value};
use crate::requests::{GrpcMatch, HeaderCondition, HeaderMatch, HttpMatch, Method, PathPattern, Requests};

/// The keys of an item of `http`.
pub(super) const HTTP_KEYS: &[&str] = &["methods", "paths", "hosts", "headers"];
/// The keys of an item of `grpc`.
pub(super) const GRPC_KEYS: &[&str] = &["service", "methods"];
/// The keys of a condition on a header.
pub(super) const HEADER_KEYS: &[&str] = &["exact", "prefix", "present"];

const HTTP: List = List {
    key: "http",
    items: "what HTTP requests to match",
    instead: "at least one item, or leave `http` out to mean every request",
};
const GRPC: List = List {
    key: "grpc",
    items: "what gRPC calls to match",
    instead: "at least one item, or leave `grpc` out to mean every request",
};
const METHODS: List = List {
    key: "methods",
    items: "methods",
    instead: "at least one method, or leave `methods` out to mean all",
};
const PATHS: List = List {
    key: "paths",
    items: "patterns of paths",
    instead: "at least one pattern, or leave `paths` out to mean all",
};
const HOSTS: List = List {
    key: "hosts",
    items: "hosts",
    instead: "at least one host, or leave `hosts` out to mean all",
};

/// What requests a rule with these keys is about.
pub(super) fn read(fields: &Fields<'_>, side: Side, report: &mut Report) -> Option<Requests> {
    let http = fields.optional("http").map(|node| {
        let items = HTTP.read(node, report, |item, report| read_http(item, side, report));
        items.map(Requests::Http)
    });
    let grpc = fields.optional("grpc").map(|node| {
        let items = GRPC.read(node, report, read_grpc);
        items.map(Requests::Grpc)
    });
    match (http, grpc) {
        (None, None) => Some(Requests::All),
        (Some(requests), None) | (None, Some(requests)) => requests,
        (Some(_), Some(_)) => {
            let places = [fields.place_of("http"), fields.place_of("grpc")];
            let at = places.into_iter().flatten().max().unwrap_or(fields.at());
            report.error(
                at,
                "a rule has `http` or `grpc`, not both, for a port speaks one of them: write two rules",
            );
            None
        }
    }
}

fn read_http(node: &Node, side: Side, report: &mut Report) -> Option<HttpMatch> {
    let fields = node.fields("an item of `http`", HTTP_KEYS, report)?;
    if is_empty_mapping(node) {
        report.error(
            node.at,
            "this item says nothing: give it `methods`, `paths`, `hosts` or `headers`, or leave `http` out to mean \
             every request",
        );
        return None;
    }
    let methods = list(&fields, METHODS, report, read_method);
    let paths = list(&fields, PATHS, report, |item, report| read_path(item, side, report));
    let hosts = list(&fields, HOSTS, report, |item, report| read_text(item, "a host", report));
    let headers = match fields.optional("headers") {
        Some(headers) => read_headers(headers, report),
        None => Some(Vec::new()),
    };
    Some(HttpMatch {
        methods: methods?,
        paths: paths?,
        hosts: hosts?,
        headers: headers?,
    })
}

fn read_grpc(node: &Node, report: &mut Report) -> Option<GrpcMatch> {
    let fields = node.fields("an item of `grpc`", GRPC_KEYS, report)?;
    let hint = "the full name of a service, such as shop.Payments";
    let service = fields
        .required("service", hint, report)
        .and_then(|service| read_text(service, "the full name of a service", report));
    let methods = list(&fields, METHODS, report, |item, report| {
        read_text(item, "the name of a method", report)
    });
    Some(GrpcMatch {
        service: service?,
        methods: methods?,
    })
}

/// An empty list where the key is not there.
fn list<T: Eq + std::hash::Hash>(
    fields: &Fields<'_>,
    list: List,
    report: &mut Report,
    read: impl FnMut(&Node, &mut Report) -> Option<T>,
) -> Option<Vec<T>> {
    match fields.optional(list.key) {
        Some(node) => list.read(node, report, read),
        None => Some(Vec::new()),
    }
}

fn read_method(node: &Node, report: &mut Report) -> Option<Method> {
    let method: Method = read_text(node, "a method such as GET", report)?;
    if !method.is_registered() {
        let message = format!("`{method}` is not in IANA's registry of HTTP methods: look whether it is meant");
        report.warning(node.at, message);
    }
    Some(method)
}

fn read_path(node: &Node, side: Side, report: &mut Report) -> Option<PathPattern> {
    let pattern: PathPattern = read_text(node, "the pattern of a path", report)?;
    if pattern.is_everything() && side == Side::Allow {
        report.warning(
            node.at,
            "`/*` is every path, so it says nothing: leave `paths` out, and `http` too if nothing else is in it",
        );
    }
    Some(pattern)
}

fn read_headers(node: &Node, report: &mut Report) -> Option<Vec<HeaderMatch>> {
    let entries = node.entries("headers by name, such as {x-tenant: {exact: blue}}", report)?;
    if entries.is_empty() {
        let message = "`headers` is empty: name at least one header, or leave `headers` out";
        report.error(node.at, message);
        return None;
    }
    let mut first: HashMap<http::HeaderName, Position> = HashMap::new();
    let mut headers = Some(Vec::new());
    for (key, value) in entries {
        let name = key.text("the name of a header", report);
        let condition = read_condition(value, report);
        let header = name.zip(condition).and_then(|(name, condition)| {
            let header = HeaderMatch::new(name, condition);
            header.map_err(|error| report.error(key.at, error.to_string())).ok()
        });
        if let Some(header) = &header
            && let Some(earlier) = first.insert(header.name().clone(), key.at)
        {
            let message = format!(
                "the header `{}` is named twice, first on line {}, for case does not count: keep one",
                header.name(),
                earlier.line
            );
            report.error(key.at, message);
        }
        headers = headers.zip(header).map(|(mut headers, header)| {
            headers.push(header);
            headers
        });
    }
    headers
}

fn read_condition(node: &Node, report: &mut Report) -> Option<HeaderCondition> {
    let fields = node.fields("a condition on a header", HEADER_KEYS, report)?;
    let given = [
        fields.optional("exact"),
        fields.optional("prefix"),
        fields.optional("present"),
    ];
    match given {
        [Some(value), None, None] => read_text(value, "a text", report).map(HeaderCondition::Exact),
        [None, Some(value), None] => read_text(value, "a text", report).map(HeaderCondition::Prefix),
        [None, None, Some(value)] => value.boolean(report).map(HeaderCondition::Present),
        // Unknown keys are told already.
        [None, None, None] if !is_empty_mapping(node) => None,
        _ => {
            report.error(
                node.at,
                "expected exactly one of `exact`, `prefix` and `present` for a header",
            );
            None
        }
    }
}

fn is_empty_mapping(node: &Node) -> bool {
    matches!(&node.value, Value::Mapping(entries) if entries.is_empty())
}

fn read_text<T: FromStr<Err: Display>>(node: &Node, expected: &str, report: &mut Report) -> Option<T> {
    let text = node.text(expected, report)?;
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            report.error(node.at, format!("{}: {error}", node.describe()));
            None
        }
    }
}
