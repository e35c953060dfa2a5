//! What the compiled set must agree with: reads all rules, in order. Shares no
//! code with it but the types.

use std::sync::Arc;

use http::HeaderValue;

use crate::model::{Policy, Rule};
use crate::requests::{HeaderCondition, HeaderMatch, HttpMatch, Requests};
use crate::{Call, Callers, Decision, Denial, Gate, Principal, Protocol, Reason, Request, Verdict};

#[derive(Clone, Copy)]
pub(super) enum Asked<'a> {
    Connection,
    Gate,
    Request(&'a Request<'a>),
}

pub(super) fn decide(set: &[Policy], call: &Call<'_>, asked: Asked<'_>) -> Decision {
    let protecting = set.iter().filter(|policy| policy.service.matches(call.service));
    let (audit, enforcing): (Vec<&Policy>, Vec<&Policy>) = protecting.partition(|policy| policy.audit);
    let first = |policies: &[&Policy], is_deny: bool| {
        policies.iter().find_map(|policy| {
            let rules = if is_deny { &policy.deny } else { &policy.allow };
            let rule = rules.iter().find(|rule| matches(rule, is_deny, call, asked))?;
            Some((Some(policy.name.clone()), Some(rule.name.clone())))
        })
    };
    let whole = |policies: &[&Policy]| (policies.first().map(|policy| policy.name.clone()), None);
    let (verdict, reason, by, would_deny) = if !enforcing.is_empty() {
        match (first(&enforcing, true), first(&enforcing, false)) {
            (Some(by), _) => (Verdict::Deny, Reason::DenyRule, by, None),
            (None, None) => (Verdict::Deny, Reason::NoAllowRule, whole(&enforcing), None),
            (None, Some(by)) => {
                let recorded = first(&audit, true).map(|by| (Reason::DenyRule, by));
                (Verdict::Allow, Reason::AllowRule, by, recorded)
            }
        }
    } else if !audit.is_empty() {
        let (by, recorded) = match (first(&audit, true), first(&audit, false)) {
            (Some(by), _) => (whole(&audit), Some((Reason::DenyRule, by))),
            (None, None) => (whole(&audit), Some((Reason::NoAllowRule, whole(&audit)))),
            (None, Some(by)) => (by, None),
        };
        (Verdict::Allow, Reason::AuditOnly, by, recorded)
    } else {
        (Verdict::Deny, Reason::NoPolicy, (None, None), None)
    };
    let shared = |name: Option<String>| name.map(Arc::from);
    Decision {
        verdict,
        reason,
        policy: shared(by.0),
        rule: shared(by.1),
        would_deny: would_deny.map(|(reason, by)| Denial {
            reason,
            policy: shared(by.0),
            rule: shared(by.1),
        }),
    }
}

pub(super) fn gate(set: &[Policy], call: &Call<'_>) -> Gate {
    let decision = decide(set, call, Asked::Gate);
    match decision.reason {
        Reason::DenyRule | Reason::StrictMode => Gate::Closed(decision),
        Reason::AllowRule | Reason::AuditOnly => Gate::Open,
        Reason::NoAllowRule | Reason::NoPolicy => Gate::Futile(decision.reason),
    }
}

fn matches(rule: &Rule, is_deny: bool, call: &Call<'_>, asked: Asked<'_>) -> bool {
    let port = rule.ports.is_empty() || rule.ports.contains(&call.port);
    let from = rule.from.iter().any(|callers| match (callers, call.peer) {
        (Callers::Workloads(pattern), Principal::Workload(id)) => pattern.matches(id),
        (Callers::Unauthenticated, Principal::Unauthenticated) => true,
        _ => false,
    });
    if !port || !from {
        return false;
    }
    let about = match &rule.requests {
        Requests::All => return true,
        Requests::Http(_) => Protocol::Http,
        Requests::Grpc(_) => Protocol::Grpc,
    };
    if about != call.protocol {
        return is_deny && !rule.ports.is_empty();
    }
    let request = match asked {
        Asked::Connection => return is_deny,
        Asked::Gate => return !is_deny,
        Asked::Request(request) => request,
    };
    match &rule.requests {
        Requests::All => true,
        Requests::Http(items) => items.iter().any(|item| http_matches(item, is_deny, request)),
        Requests::Grpc(items) => spellings(request.path, is_deny).iter().any(|path| {
            let parts: Vec<&str> = path.split('/').collect();
            let ["", service, method] = parts.as_slice() else {
                return false;
            };
            items.iter().any(|item| {
                let methods = item.methods.iter().any(|own| own.as_str() == *method);
                item.service.as_str() == *service && (item.methods.is_empty() || methods)
            })
        }),
    }
}

fn http_matches(item: &HttpMatch, is_deny: bool, request: &Request<'_>) -> bool {
    let methods = item.methods.is_empty() || item.methods.iter().any(|own| own.as_str() == request.method);
    let spellings = spellings(request.path, is_deny);
    let path = |pattern: &str| spellings.iter().any(|path| path_matches(pattern, path));
    let paths = item.paths.is_empty() || item.paths.iter().any(|pattern| path(pattern.as_str()));
    let host = request.host.map(without_port);
    let hosts = item.hosts.is_empty() || item.hosts.iter().any(|own| Some(own.to_string()) == host);
    let headers = item
        .headers
        .iter()
        .all(|header| header_matches(header, is_deny, request));
    methods && paths && hosts && headers
}

/// Enough for the hosts of these tests.
fn without_port(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let host = host
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .trim_end_matches(':');
    host.trim_end_matches('.').to_owned()
}

fn header_matches(header: &HeaderMatch, is_deny: bool, request: &Request<'_>) -> bool {
    let lines = request.headers.get_all(header.name());
    let lines: Vec<&str> = lines.iter().map(HeaderValue::to_str).map(Result::unwrap).collect();
    let value_holds = |line: &&str| match header.condition() {
        HeaderCondition::Exact(value) => *line == value.as_str(),
        HeaderCondition::Prefix(value) => line.starts_with(value.as_str()),
        HeaderCondition::Present(_) => true,
    };
    match header.condition() {
        HeaderCondition::Present(wanted) => lines.is_empty() != *wanted,
        _ if is_deny => lines.iter().any(value_holds),
        _ => !lines.is_empty() && lines.iter().all(value_holds),
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    if let Some(above) = pattern.strip_suffix("/*") {
        let depth = above.matches('/').count();
        let end = path.match_indices('/').nth(depth).map(|(end, _)| end);
        return end.is_some_and(|end| path_matches_exactly(above, &path[..end]));
    }
    path_matches_exactly(pattern, path)
}

fn path_matches_exactly(pattern: &str, path: &str) -> bool {
    let (patterns, segments): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    let same = |(own, segment): (&&str, &&str)| *own == "*" || own == segment;
    patterns.len() == segments.len() && patterns.iter().zip(&segments).all(same)
}

fn spellings(path: &str, is_deny: bool) -> Vec<String> {
    let mut spellings = vec![path.to_owned()];
    if is_deny {
        let bare = |segment: &str| segment.replace("%3B", ";").split(';').next().unwrap().to_owned();
        let stripped = path.split('/').map(bare).collect::<Vec<_>>().join("/");
        let mut merged = stripped.clone();
        while merged.contains("//") {
            merged = merged.replace("//", "/");
        }
        spellings.extend([stripped, merged]);
    }
    spellings
}
