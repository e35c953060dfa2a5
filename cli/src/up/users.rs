//! Who services run as.

use nix::unistd::{Uid, User};

use crate::launcher::privileges::{Privileges, ROOT_KEEPS};

/// What is known of the caller.
#[derive(Clone, Debug)]
pub(crate) enum Users {
    /// Root: services become other users.
    Root {
        /// Who called sudo, if it was called: uid and gid.
        sudo: Option<(u32, u32)>,
    },
    /// Somebody else: services run as them.
    Caller {
        /// The caller's uid.
        uid: u32,
        /// The caller's gid.
        gid: u32,
    },
}

impl Users {
    /// Whether services may become other users.
    pub(crate) fn root(&self) -> bool {
        matches!(self, Self::Root { .. })
    }

    /// What a service with this `user` runs as: a name, or a number.
    /// An error says in words what is wrong with it.
    pub(crate) fn privileges(&self, user: Option<&str>) -> Result<Privileges, String> {
        match (self, user) {
            (Self::Caller { uid, gid }, _) => Ok(Privileges::OwnNamespace { uid: *uid, gid: *gid }),
            (Self::Root { .. }, Some(name)) => named(name),
            (Self::Root { sudo: Some((uid, gid)) }, None) => {
                let name = User::from_uid(Uid::from_raw(*uid)).ok().flatten().map(|user| user.name);
                Ok(become_user(*uid, *gid, name))
            }
            (Self::Root { sudo: None }, None) => named("nobody"),
        }
    }
}

fn named(name: &str) -> Result<Privileges, String> {
    let found = match name.parse::<u32>() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(name),
    };
    match found {
        Ok(Some(user)) => Ok(become_user(user.uid.as_raw(), user.gid.as_raw(), Some(user.name))),
        Ok(None) => Err(format!(
            "this machine has no user `{name}`: name one that `getent passwd` lists, or make it with `useradd --system {name}`"
        )),
        Err(error) => Err(format!("cannot look up user `{name}`: {error}")),
    }
}

fn become_user(uid: u32, gid: u32, name: Option<String>) -> Privileges {
    if uid == 0 {
        return Privileges::Only {
            capabilities: ROOT_KEEPS.map(str::to_owned).to_vec(),
        };
    }
    Privileges::User {
        uid,
        gid,
        name,
        capabilities: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn root_keeps_only_what_servers_need_to_drop_their_rights() {
        let root = Users::Root {
            sudo: Some((1000, 1000)),
        };
        let Privileges::Only { capabilities } = root.privileges(Some("root")).unwrap() else {
            unreachable!("root is not another user");
        };
        assert_eq!(capabilities.len(), 7);
        assert!(
            !capabilities
                .iter()
                .any(|name| name.contains("NET_ADMIN") || name.contains("SYS_"))
        );
        assert_eq!(root.privileges(Some("0")), root.privileges(Some("root")));
    }

    #[test]
    fn the_default_is_who_called_sudo_and_else_nobody() {
        let sudo = Users::Root {
            sudo: Some((54_321, 54_322)),
        };
        let expected = Privileges::User {
            uid: 54_321,
            gid: 54_322,
            name: None,
            capabilities: Vec::new(),
        };
        assert_eq!(sudo.privileges(None), Ok(expected));
        let plain = Users::Root { sudo: None };
        assert_eq!(plain.privileges(None), plain.privileges(Some("nobody")));
        assert!(matches!(plain.privileges(None), Ok(Privileges::User { uid, .. }) if uid != 0));
    }

    #[test]
    fn an_unknown_user_is_named_in_the_error() {
        let error = Users::Root { sudo: None }.privileges(Some("no-such-user")).unwrap_err();
        assert!(error.contains("`no-such-user`"), "{error}");
    }

    #[test]
    fn an_ordinary_caller_stays_who_they_are() {
        let caller = Users::Caller { uid: 1000, gid: 1001 };
        let expected = Privileges::OwnNamespace { uid: 1000, gid: 1001 };
        assert_eq!(caller.privileges(Some("nobody")), Ok(expected.clone()));
        assert_eq!(caller.privileges(None), Ok(expected));
    }
}
