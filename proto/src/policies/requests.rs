//! The `http` and `grpc` blocks of rules.

use std::fmt::Display;
use std::str::FromStr;

use watchword_policy::{GrpcMatch, HeaderCondition, HeaderMatch, HttpMatch, Requests};

use crate::control::header_match::Condition;
use crate::control::rule;
use crate::{InvalidMessage, control};

pub(super) fn to_proto(requests: &Requests) -> Option<rule::Requests> {
    match requests {
        Requests::All => None,
        Requests::Http(items) => Some(rule::Requests::Http(control::HttpMatches {
            any_of: items.iter().map(http_to_proto).collect(),
        })),
        Requests::Grpc(items) => Some(rule::Requests::Grpc(control::GrpcMatches {
            any_of: items.iter().map(grpc_to_proto).collect(),
        })),
    }
}

pub(super) fn from_proto(message: rule::Requests, field: &str) -> Result<Requests, InvalidMessage> {
    match message {
        rule::Requests::Http(matches) => {
            let field = format!("{field}, http");
            let items = not_empty(matches.any_of, &field)?;
            let items = items.into_iter().map(|item| http_from_proto(item, &field));
            items.collect::<Result<_, _>>().map(Requests::Http)
        }
        rule::Requests::Grpc(matches) => {
            let field = format!("{field}, grpc");
            let items = not_empty(matches.any_of, &field)?;
            let items = items.iter().map(|item| grpc_from_proto(item, &field));
            items.collect::<Result<_, _>>().map(Requests::Grpc)
        }
    }
}

/// Nothing must not read as everything.
fn not_empty<T>(items: Vec<T>, field: &str) -> Result<Vec<T>, InvalidMessage> {
    if items.is_empty() {
        return Err(InvalidMessage::new(field, "it is empty"));
    }
    Ok(items)
}

fn http_to_proto(item: &HttpMatch) -> control::HttpMatch {
    control::HttpMatch {
        methods: texts(&item.methods),
        paths: texts(&item.paths),
        hosts: texts(&item.hosts),
        headers: item.headers.iter().map(header_to_proto).collect(),
    }
}

fn header_to_proto(header: &HeaderMatch) -> control::HeaderMatch {
    let condition = match header.condition() {
        HeaderCondition::Exact(value) => Condition::Exact(value.to_string()),
        HeaderCondition::Prefix(value) => Condition::Prefix(value.to_string()),
        HeaderCondition::Present(wanted) => Condition::Present(*wanted),
    };
    control::HeaderMatch {
        name: header.name().to_string(),
        condition: Some(condition),
    }
}

fn grpc_to_proto(item: &GrpcMatch) -> control::GrpcMatch {
    control::GrpcMatch {
        service: item.service.to_string(),
        methods: texts(&item.methods),
    }
}

fn http_from_proto(message: control::HttpMatch, field: &str) -> Result<HttpMatch, InvalidMessage> {
    let item = HttpMatch {
        methods: parsed(&message.methods, field)?,
        paths: parsed(&message.paths, field)?,
        hosts: parsed(&message.hosts, field)?,
        headers: message
            .headers
            .into_iter()
            .map(|header| header_from_proto(header, field))
            .collect::<Result<_, _>>()?,
    };
    if item == HttpMatch::default() {
        return Err(InvalidMessage::new(field, "an item says nothing"));
    }
    Ok(item)
}

fn header_from_proto(message: control::HeaderMatch, field: &str) -> Result<HeaderMatch, InvalidMessage> {
    let field = format!("{field}, header {:?}", message.name);
    let condition = match message.condition {
        Some(Condition::Exact(value)) => HeaderCondition::Exact(parse(&value, &field)?),
        Some(Condition::Prefix(value)) => HeaderCondition::Prefix(parse(&value, &field)?),
        Some(Condition::Present(wanted)) => HeaderCondition::Present(wanted),
        None => return Err(InvalidMessage::new(field, "no condition that this build knows")),
    };
    HeaderMatch::new(&message.name, condition).map_err(|error| InvalidMessage::new(field, error))
}

fn grpc_from_proto(message: &control::GrpcMatch, field: &str) -> Result<GrpcMatch, InvalidMessage> {
    Ok(GrpcMatch {
        service: parse(&message.service, field)?,
        methods: parsed(&message.methods, field)?,
    })
}

fn texts<T: Display>(items: &[T]) -> Vec<String> {
    items.iter().map(T::to_string).collect()
}

fn parsed<T: FromStr<Err: Display>>(texts: &[String], field: &str) -> Result<Vec<T>, InvalidMessage> {
    texts.iter().map(|text| parse(text, field)).collect()
}

fn parse<T: FromStr<Err: Display>>(text: &str, field: &str) -> Result<T, InvalidMessage> {
    text.parse()
        .map_err(|error| InvalidMessage::new(field, format!("{text:?}: {error}")))
}
