//! A stream on which each response has what has changed ("incremental").
//! Pure: no sockets, no tasks.

use std::collections::BTreeMap;

use watchword_proto::sds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, SECRET_TYPE};

use super::answers::{Answers, Said};
use super::names::{find, known};
use super::{MAX_NAMES, Missing, Wrong, check_names};
use crate::workloads::Material;

/// Asks for all.
const WILDCARD: &str = "*";

/// One stream.
#[derive(Default)]
pub(super) struct Delta {
    answers: Answers,
    is_begun: bool,
    wants_all: bool,
    /// What is subscribed to, with the version that the client has; `None`: it
    /// must be told.
    names: BTreeMap<String, Option<String>>,
    /// Said to be gone.
    removed: Vec<String>,
}

impl Delta {
    /// Takes a request. What it says of the last response is for the log.
    pub(super) fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<Said, Wrong> {
        if !request.type_url.is_empty() && request.type_url != SECRET_TYPE {
            return Err(Wrong::Type(request.type_url));
        }
        check_names(&request.resource_names_subscribe, MAX_NAMES)?;
        if !self.is_begun {
            self.is_begun = true;
            self.wants_all = request.resource_names_subscribe.is_empty();
            check_names(request.initial_resource_versions.keys(), MAX_NAMES)?;
            let had = request.initial_resource_versions.into_iter();
            self.names = had.map(|(name, version)| (name, Some(version))).collect();
            self.names
                .retain(|name, _| request.resource_names_subscribe.contains(name) || self.wants_all);
        }
        for name in request.resource_names_subscribe {
            match name.as_str() {
                WILDCARD => self.wants_all = true,
                // What is asked for again is told again.
                _ if self.answers.has_sent() => _ = self.names.insert(name, None),
                _ => _ = self.names.entry(name).or_default(),
            }
        }
        for name in request.resource_names_unsubscribe {
            self.names.remove(&name);
            self.wants_all &= name != WILDCARD;
        }
        check_names(self.names.keys(), MAX_NAMES)?;
        // A subscription counts whatever response the client has seen last.
        Ok(self
            .answers
            .read(&request.response_nonce, request.error_detail.as_ref()))
    }

    /// What is to be sent, if anything: after a request, and whenever there is
    /// new material. A rejected version is never sent again.
    pub(super) fn respond(&mut self, material: &Material) -> Result<Option<DeltaDiscoveryResponse>, Missing> {
        if self.wants_all {
            for name in known(material) {
                self.names.entry(name).or_default();
            }
        }
        let mut resources = Vec::new();
        let mut gone = Vec::new();
        for (name, has) in &mut self.names {
            match find(name, material) {
                Some(named) if has.as_ref() != Some(&named.version) => {
                    *has = Some(named.version.clone());
                    resources.push(Resource {
                        name: named.name,
                        version: named.version,
                        resource: Some(named.secret.into()),
                    });
                }
                Some(_) => {}
                None => gone.push(name.clone()),
            }
        }
        if !self.names.is_empty() && gone.len() == self.names.len() {
            return Err(Missing::new(gone, material));
        }
        let news: Vec<String> = gone
            .iter()
            .filter(|name| !self.removed.contains(name))
            .cloned()
            .collect();
        self.removed = gone;
        if resources.is_empty() && news.is_empty() {
            return Ok(None);
        }
        Ok(Some(DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources,
            type_url: SECRET_TYPE.to_owned(),
            nonce: self.answers.next_nonce(),
            removed_resources: news,
        }))
    }
}
