//! A stream on which each response has all that was asked for ("state of the
//! world"). Pure: no sockets, no tasks.

use watchword_proto::sds::{DiscoveryRequest, DiscoveryResponse, SECRET_TYPE};

use super::answers::{Answers, Said};
use super::names::{WILDCARD, find, known};
use super::protocol::Protocol;
use super::refusal::{Missing, Refusal, Wrong, check_names, check_type};
use crate::workloads::Material;

/// One stream.
#[derive(Default)]
pub(super) struct Whole {
    answers: Answers,
    /// Of the last request, in order.
    names: Option<Vec<String>>,
    /// Who has named something, and names nothing now, wants nothing any more;
    /// before, to name nothing asks for all (xDS, "How the client specifies
    /// what resources to return").
    has_named: bool,
    sent: String,
}

impl Protocol for Whole {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn request(&mut self, request: DiscoveryRequest) -> Result<Said, Wrong> {
        check_type(&request.type_url)?;
        let mut names = request.resource_names;
        names.sort_unstable();
        names.dedup();
        check_names(&names)?;
        let said = self
            .answers
            .read(&request.response_nonce, request.error_detail.as_ref());
        // A stale request says nothing of what is wanted now, either.
        if said != Said::Stale && self.names.as_ref() != Some(&names) {
            self.has_named |= !names.is_empty();
            self.names = Some(names);
            self.sent.clear();
        }
        Ok(said)
    }

    fn respond(&mut self, material: &Material) -> Result<Option<DiscoveryResponse>, Missing> {
        let Some(names) = self.names.as_ref().filter(|names| !names.is_empty() || !self.has_named) else {
            return Ok(None);
        };
        let (version, resources) = secrets(names, material)?;
        if self.sent == version {
            return Ok(None);
        }
        self.sent.clone_from(&version);
        Ok(Some(response(version, resources, self.answers.next_nonce())))
    }
}

/// All that a single request asks for; each name must be there.
pub(super) fn once(request: DiscoveryRequest, material: &Material) -> Result<DiscoveryResponse, Refusal> {
    let names = request.resource_names.clone();
    let mut stream = Whole::default();
    stream.request(request)?;
    let missing: Vec<String> = names
        .into_iter()
        .filter(|name| name != WILDCARD && find(name, material).is_none())
        .collect();
    if !missing.is_empty() {
        return Err(Missing::new(missing, material).into());
    }
    let (version, resources) = secrets(stream.names.as_deref().unwrap_or_default(), material)?;
    Ok(response(version, resources, String::new()))
}

type Secrets = (String, Vec<watchword_proto::sds::Packed>);

/// Those that are there; at least one must be.
fn secrets(names: &[String], material: &Material) -> Result<Secrets, Missing> {
    let mut all = Vec::new();
    if names.is_empty() || names.iter().any(|name| name == WILDCARD) {
        all = known(material);
    }
    for name in names {
        if name != WILDCARD && !all.contains(name) {
            all.push(name.clone());
        }
    }
    let found: Vec<_> = all.iter().filter_map(|name| find(name, material)).collect();
    if found.is_empty() {
        return Err(Missing::new(all, material));
    }
    let versions: Vec<&str> = found.iter().map(|named| named.version.as_str()).collect();
    Ok((
        versions.join("-"),
        found.into_iter().map(|named| named.secret).collect(),
    ))
}

fn response(version: String, resources: Vec<watchword_proto::sds::Packed>, nonce: String) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version,
        resources: resources.into_iter().map(Into::into).collect(),
        type_url: SECRET_TYPE.to_owned(),
        nonce,
    }
}

#[cfg(test)]
#[path = "whole_tests.rs"]
mod tests;
