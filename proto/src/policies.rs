//! Policies to and from their message.
//!
//! Invariant: what comes out of [`policies_from_proto`] holds what a policy
//! file is held to. One rule that can't be understood refuses the whole set:
//! leaving it out could allow what it denies.

mod requests;

use std::collections::HashSet;

use watchword_policy::{
    Callers, IdPattern, MAX_NAME, MAX_RULE_WEIGHT, MAX_SET_WEIGHT, Mode, Policy, Requests, Rule, is_name,
};

use crate::{InvalidMessage, control};

/// The newest schema that this build writes and understands. 2 added
/// `requests` to rules, 3 the permissive mode.
pub const POLICY_SCHEMA: u32 = 3;

/// The schema of policies with `requests` for a mesh in strict mode.
const WITH_REQUESTS: u32 = 2;

/// The schema of policies without `requests`.
const WITHOUT_REQUESTS: u32 = 1;

/// The policies that a workload is told, and the mode that they are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// Of the mesh.
    pub mode: Mode,
    /// In the order of the files.
    pub policies: Vec<Policy>,
}

/// Policies as they go over the wire, in the oldest schema that can say them,
/// so that an older proxy goes on working where nothing is asked of it that it
/// does not know.
pub fn policy_set_to_proto<'a>(mode: Mode, policies: impl IntoIterator<Item = &'a Policy>) -> control::PolicySet {
    let policies: Vec<control::Policy> = policies
        .into_iter()
        .map(|policy| control::Policy {
            name: policy.name.to_string(),
            service: policy.service.to_string(),
            allow: policy.allow.iter().map(rule_to_proto).collect(),
            deny: policy.deny.iter().map(rule_to_proto).collect(),
            audit: policy.audit,
        })
        .collect();
    let schema = match mode {
        Mode::Permissive => POLICY_SCHEMA,
        Mode::Strict if policies.iter().any(asks_for_requests) => WITH_REQUESTS,
        Mode::Strict => WITHOUT_REQUESTS,
    };
    control::PolicySet {
        schema,
        policies,
        mode: control::Mode::from(mode).into(),
    }
}

/// Policies that came over the wire.
///
/// # Errors
/// When the schema is newer than this build or not said, or a rule can't be
/// understood.
pub fn policies_from_proto(message: control::PolicySet) -> Result<Policies, InvalidMessage> {
    if message.schema == 0 {
        return Err(InvalidMessage::new("schema", "none is given"));
    }
    if message.schema > POLICY_SCHEMA {
        let problem = format!(
            "{} is newer than this build's {POLICY_SCHEMA}: update the proxy",
            message.schema
        );
        return Err(InvalidMessage::new("schema", problem));
    }
    if message.schema == WITHOUT_REQUESTS && message.policies.iter().any(asks_for_requests) {
        return Err(InvalidMessage::new("schema", "1 has no `http` and no `grpc`"));
    }
    let mode = match control::Mode::try_from(message.mode) {
        Ok(control::Mode::Unspecified | control::Mode::Strict) => Mode::Strict,
        Ok(control::Mode::Permissive) if message.schema >= POLICY_SCHEMA => Mode::Permissive,
        Ok(control::Mode::Permissive) => return Err(InvalidMessage::new("schema", "only 3 has a permissive mode")),
        Err(_) => return Err(InvalidMessage::new("mode", "unknown mode")),
    };
    let policies: Vec<Policy> = message
        .policies
        .into_iter()
        .map(policy_from_proto)
        .collect::<Result<_, _>>()?;
    let names = policies.iter().map(|policy| policy.name.as_str());
    check_unique(names, "policies")?;
    let weight = policies
        .iter()
        .fold(0, |sum: usize, policy| sum.saturating_add(policy.weight()));
    if weight > MAX_SET_WEIGHT {
        let problem = format!("{weight} combinations of caller, port and request, above {MAX_SET_WEIGHT}");
        return Err(InvalidMessage::new("policies", problem));
    }
    let means_anybody = |rule: &Rule| rule.from.contains(&Callers::Unauthenticated);
    let mut rules = policies
        .iter()
        .flat_map(|policy| policy.allow.iter().chain(&policy.deny));
    if mode == Mode::Strict && rules.any(means_anybody) {
        return Err(InvalidMessage::new(
            "policies",
            "`unauthenticated` calls in permissive mode only",
        ));
    }
    Ok(Policies { mode, policies })
}

impl From<Mode> for control::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Strict => Self::Strict,
            Mode::Permissive => Self::Permissive,
        }
    }
}

fn asks_for_requests(policy: &control::Policy) -> bool {
    let mut rules = policy.allow.iter().chain(&policy.deny);
    rules.any(|rule| rule.requests.is_some())
}

fn policy_from_proto(message: control::Policy) -> Result<Policy, InvalidMessage> {
    let field = format!("policy {:?}", message.name);
    check_name(&message.name, &field)?;
    let service = pattern(&message.service, &field)?;
    let rules = |rules: Vec<control::Rule>| -> Result<Vec<Rule>, InvalidMessage> {
        rules.into_iter().map(|rule| rule_from_proto(rule, &field)).collect()
    };
    let (allow, deny) = (rules(message.allow)?, rules(message.deny)?);
    check_unique(allow.iter().chain(&deny).map(|rule| rule.name.as_str()), &field)?;
    Ok(Policy {
        name: message.name,
        service,
        allow,
        deny,
        audit: message.audit,
    })
}

fn rule_to_proto(rule: &Rule) -> control::Rule {
    control::Rule {
        name: rule.name.to_string(),
        from: rule.from.iter().map(Callers::to_string).collect(),
        ports: rule.ports.iter().copied().map(u32::from).collect(),
        requests: requests::to_proto(&rule.requests),
    }
}

fn rule_from_proto(message: control::Rule, policy: &str) -> Result<Rule, InvalidMessage> {
    let field = format!("{policy}, rule {:?}", message.name);
    check_name(&message.name, &field)?;
    if message.from.is_empty() {
        return Err(InvalidMessage::new(field, "`from` is empty"));
    }
    let from = message
        .from
        .iter()
        .map(|text| text.parse().map_err(|error| InvalidMessage::new(&field, error)))
        .collect::<Result<_, _>>()?;
    let ports = message
        .ports
        .into_iter()
        .map(|port| crate::directory::port_from_proto(port, &field))
        .collect::<Result<_, _>>()?;
    let requests = match message.requests {
        Some(requests) => requests::from_proto(requests, &field)?,
        None => Requests::All,
    };
    let rule = Rule {
        name: message.name,
        from,
        ports,
        requests,
    };
    if rule.weight() > MAX_RULE_WEIGHT {
        let problem = format!("more than {MAX_RULE_WEIGHT} combinations of caller, port and request");
        return Err(InvalidMessage::new(field, problem));
    }
    Ok(rule)
}

fn pattern(text: &str, field: &str) -> Result<IdPattern, InvalidMessage> {
    text.parse().map_err(|error| InvalidMessage::new(field, error))
}

fn check_name(name: &str, field: &str) -> Result<(), InvalidMessage> {
    if is_name(name) {
        return Ok(());
    }
    let problem = format!("its name is not 1 to {MAX_NAME} characters, or has control characters or spaces around it");
    Err(InvalidMessage::new(field, problem))
}

fn check_unique<'a>(names: impl Iterator<Item = &'a str>, field: &str) -> Result<(), InvalidMessage> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(InvalidMessage::new(field, format!("two are named {name:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
