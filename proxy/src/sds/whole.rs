//! A stream on which each response has all that was asked for ("state of the
//! world"). Pure: no sockets, no tasks.

use watchword_proto::sds::{DiscoveryRequest, DiscoveryResponse, SECRET_TYPE};

use super::answers::{Answers, Said};
use super::names::{find, known};
use super::{MAX_NAMES, Missing, Wrong, check_names};
use crate::workloads::Material;

/// One stream.
#[derive(Default)]
pub(super) struct Whole {
    answers: Answers,
    /// Empty: all.
    names: Option<Vec<String>>,
    sent: String,
}

impl Whole {
    /// Takes a request. What it says of the last response is for the log.
    pub(super) fn request(&mut self, request: DiscoveryRequest) -> Result<Said, Wrong> {
        if !request.type_url.is_empty() && request.type_url != SECRET_TYPE {
            return Err(Wrong::Type(request.type_url));
        }
        let mut names = request.resource_names;
        names.sort_unstable();
        names.dedup();
        check_names(&names, MAX_NAMES)?;
        let said = self
            .answers
            .read(&request.response_nonce, request.error_detail.as_ref());
        // A stale request says nothing of what is wanted now, either.
        if said != Said::Stale && self.names.as_ref() != Some(&names) {
            self.names = Some(names);
            self.sent.clear();
        }
        Ok(said)
    }

    /// What is to be sent, if anything: after a request, and whenever there is
    /// new material. A rejected version is never sent again.
    pub(super) fn respond(&mut self, material: &Material) -> Result<Option<DiscoveryResponse>, Missing> {
        let Some(names) = &self.names else {
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
pub(super) fn once(request: DiscoveryRequest, material: &Material) -> Result<DiscoveryResponse, super::Refusal> {
    let names = request.resource_names.clone();
    let mut stream = Whole::default();
    stream.request(request)?;
    let missing: Vec<String> = names
        .into_iter()
        .filter(|name| find(name, material).is_none())
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
    let all = if names.is_empty() {
        known(material)
    } else {
        names.to_vec()
    };
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
