//! Which user may have which SPIFFE IDs, as the configuration says it.

use watchword_identity::SpiffeId;

use crate::config::{User, WorkloadCaller};

/// Who may have what.
#[derive(Clone, Debug)]
pub(crate) struct Entitled(Vec<WorkloadCaller>);

impl Entitled {
    pub(crate) fn new(callers: Vec<WorkloadCaller>) -> Self {
        Self(callers)
    }

    /// The first is the default; none: nothing for that user.
    pub(crate) fn ids_of(&self, uid: u32, own: &SpiffeId) -> Vec<SpiffeId> {
        let mut ids = Vec::new();
        for caller in self.0.iter().filter(|caller| caller.uid.is(uid)) {
            let id = caller.id.as_ref().map_or(own, |id| &id.0);
            if !ids.contains(id) {
                ids.push(id.clone());
            }
        }
        ids
    }
}

impl User {
    fn is(self, uid: u32) -> bool {
        match self {
            Self::Any => true,
            Self::Uid(only) => only == uid,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_user_has_what_names_it_in_the_order_of_the_file() {
        let callers =
            "[{uid: 7}, {uid: 8, id: 'spiffe://td/b'}, {uid: 8, id: 'spiffe://td/a'}, {uid: 7, id: 'spiffe://td/own'}]";
        let entitled = Entitled::new(serde_saphyr::from_str(callers).unwrap());
        let own = SpiffeId::new("spiffe://td/own").unwrap();
        let ids = |uid| {
            entitled
                .ids_of(uid, &own)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(7), ["spiffe://td/own"]);
        assert_eq!(ids(8), ["spiffe://td/b", "spiffe://td/a"]);
        assert!(ids(9).is_empty() && ids(0).is_empty());
        let any = Entitled::new(serde_saphyr::from_str("[{uid: any}]").unwrap());
        assert_eq!(any.ids_of(65534, &own), [own]);
    }
}
