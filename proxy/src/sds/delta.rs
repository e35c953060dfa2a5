//! A stream on which each response has what has changed ("incremental").
//! Pure: no sockets, no tasks.

use std::collections::{BTreeMap, BTreeSet};

use watchword_proto::sds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource, SECRET_TYPE};

use super::answers::{Answers, Said};
use super::names::{WILDCARD, find, known};
use super::protocol::Protocol;
use super::refusal::{Missing, Wrong, check_names, check_type};
use crate::workloads::Material;

/// One stream.
#[derive(Default)]
pub(super) struct Delta {
    answers: Answers,
    is_begun: bool,
    wants_all: bool,
    /// Asked for by name.
    names: BTreeSet<String>,
    /// What the client knows of a name: its version, or that there is none.
    /// What it knows nothing of, it must be told.
    told: BTreeMap<String, Option<String>>,
}

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn request(&mut self, mut request: DeltaDiscoveryRequest) -> Result<Said, Wrong> {
        check_type(&request.type_url)?;
        check_names(&request.resource_names_subscribe)?;
        if self.is_begun {
            // What is asked for again is told again.
            for name in &request.resource_names_subscribe {
                self.told.remove(name);
            }
        } else {
            self.begin(&mut request)?;
        }
        for name in request.resource_names_subscribe {
            if name == WILDCARD {
                self.wants_all = true;
            } else {
                self.names.insert(name);
            }
        }
        for name in request.resource_names_unsubscribe {
            if name == WILDCARD {
                self.wants_all = false;
                self.told.retain(|told, _| self.names.contains(told));
            } else {
                self.names.remove(&name);
                // Where all is wanted, the client has thrown it away, and needs it.
                self.told.remove(&name);
            }
        }
        check_names(&self.names)?;
        // A subscription counts whatever response the client has seen last.
        Ok(self
            .answers
            .read(&request.response_nonce, request.error_detail.as_ref()))
    }

    fn respond(&mut self, material: &Material) -> Result<Option<DeltaDiscoveryResponse>, Missing> {
        let mut wanted = self.names.clone();
        if self.wants_all {
            wanted.extend(known(material));
        }
        let (mut resources, mut gone) = (Vec::new(), Vec::new());
        let mut is_any_there = false;
        // What was known, and told to who wants all, may be wanted no more.
        let all: BTreeSet<String> = wanted.iter().chain(self.told.keys()).cloned().collect();
        for name in all {
            let named = find(&name, material);
            is_any_there |= named.is_some();
            let version = named.as_ref().map(|named| named.version.clone());
            if self.told.get(&name) == Some(&version) {
                continue;
            }
            match named {
                Some(named) => resources.push(Resource {
                    name: named.name,
                    version: named.version,
                    resource: Some(named.secret.into()),
                }),
                None => gone.push(name.clone()),
            }
            self.told.insert(name, version);
        }
        if !wanted.is_empty() && !is_any_there {
            return Err(Missing::new(wanted.into_iter().collect(), material));
        }
        self.told.retain(|name, _| wanted.contains(name));
        if resources.is_empty() && gone.is_empty() {
            return Ok(None);
        }
        Ok(Some(DeltaDiscoveryResponse {
            system_version_info: String::new(),
            resources,
            type_url: SECRET_TYPE.to_owned(),
            nonce: self.answers.next_nonce(),
            removed_resources: gone,
        }))
    }
}

impl Delta {
    fn begin(&mut self, request: &mut DeltaDiscoveryRequest) -> Result<(), Wrong> {
        self.is_begun = true;
        let asked = &request.resource_names_subscribe;
        let is_wanted = |name: &str| asked.is_empty() || asked.iter().any(|asked| asked == name || asked == WILDCARD);
        self.wants_all = asked.is_empty();
        let had = std::mem::take(&mut request.initial_resource_versions);
        check_names(had.keys())?;
        let had = had.into_iter().filter(|(name, _)| is_wanted(name));
        self.told = had.map(|(name, version)| (name, Some(version))).collect();
        Ok(())
    }
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
