//! Policies to and from their message.

use watchword_policy::{IdPattern, Policy, Requests, Rule};

use crate::{InvalidMessage, control};

/// The schema that this build writes and understands.
pub const POLICY_SCHEMA: u32 = 1;

/// Policies as they go over the wire.
pub fn policy_set_to_proto<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> control::PolicySet {
    let policies = policies
        .into_iter()
        .map(|policy| control::Policy {
            name: policy.name.to_string(),
            service: policy.service.to_string(),
            allow: policy.allow.iter().map(rule_to_proto).collect(),
            deny: policy.deny.iter().map(rule_to_proto).collect(),
            audit: policy.audit,
        })
        .collect();
    control::PolicySet {
        schema: POLICY_SCHEMA,
        policies,
    }
}

/// Policies that came over the wire.
///
/// # Errors
/// When the schema is newer than this build or not said, or a rule can't be understood:
/// leaving one out could allow what it denies.
pub fn policies_from_proto(message: control::PolicySet) -> Result<Vec<Policy>, InvalidMessage> {
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
    message.policies.into_iter().map(policy_from_proto).collect()
}

fn policy_from_proto(message: control::Policy) -> Result<Policy, InvalidMessage> {
    let field = format!("policy {:?}", message.name);
    let service = pattern(&message.service, &field)?;
    let allow = message
        .allow
        .into_iter()
        .map(|rule| rule_from_proto(rule, &field))
        .collect::<Result<_, _>>()?;
    let deny = message
        .deny
        .into_iter()
        .map(|rule| rule_from_proto(rule, &field))
        .collect::<Result<_, _>>()?;
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
        from: rule.from.iter().map(IdPattern::to_string).collect(),
        ports: rule.ports.iter().copied().map(u32::from).collect(),
    }
}

fn rule_from_proto(message: control::Rule, policy: &str) -> Result<Rule, InvalidMessage> {
    let field = format!("{policy}, rule {:?}", message.name);
    if message.from.is_empty() {
        return Err(InvalidMessage::new(field, "`from` is empty"));
    }
    let from = message
        .from
        .iter()
        .map(|text| pattern(text, &field))
        .collect::<Result<_, _>>()?;
    let ports = message
        .ports
        .into_iter()
        .map(|port| u16::try_from(port).map_err(|_| InvalidMessage::new(field.as_str(), "not a port")))
        .collect::<Result<_, _>>()?;
    Ok(Rule {
        name: message.name,
        from,
        ports,
        requests: Requests::All,
    })
}

fn pattern(text: &str, field: &str) -> Result<IdPattern, InvalidMessage> {
    text.parse().map_err(|error| InvalidMessage::new(field, error))
}
