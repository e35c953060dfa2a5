//! The rights that a program is left with.
//!
//! Invariant: whatever is chosen, but for [`Privileges::Keep`], the program
//! cannot gain rights again (no_new_privs, and the bounding set is cut).

use std::ffi::CString;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, initgroups, setgroups, setresgid, setresuid};
use serde::{Deserialize, Serialize};

use super::{Doing, LaunchError, user_namespace};

/// What a program that is started as `user: root` keeps, so that servers can
/// drop their rights themselves.
pub(crate) const ROOT_KEEPS: [&str; 7] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
];

/// Who a program runs as, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Privileges {
    /// All of the launcher's own: for our own short tools.
    Keep,
    /// The launcher's user, with these capabilities at most.
    Only {
        /// Names as in capabilities(7).
        capabilities: Vec<String>,
    },
    /// Another user; needs root.
    User {
        /// Its uid.
        uid: u32,
        /// Its main gid.
        gid: u32,
        /// Its name, by which supplementary groups are found; none: no groups.
        name: Option<String>,
        /// Capabilities that it keeps nevertheless.
        capabilities: Vec<String>,
    },
    /// In a further user namespace, where the only user there is has this
    /// uid and gid, and no capability.
    OwnNamespace {
        /// The uid that the program sees.
        uid: u32,
        /// The gid that the program sees.
        gid: u32,
    },
}

impl Privileges {
    /// Gives up everything else. There is no way back, also after an error:
    /// the caller must end.
    pub(crate) fn apply(&self) -> Result<(), LaunchError> {
        match self {
            Self::Keep => return Ok(()),
            Self::Only { capabilities } => reduce(&set(capabilities)?)?,
            Self::User {
                uid,
                gid,
                name,
                capabilities,
            } => switch(*uid, *gid, name.as_deref(), &set(capabilities)?)?,
            Self::OwnNamespace { uid, gid } => {
                let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
                user_namespace::unshare_as(uid, gid, CloneFlags::empty())?;
                reduce(&CapsHashSet::new())?;
            }
        }
        prctl::set_no_new_privs().doing("set no_new_privs")
    }
}

fn switch(uid: u32, gid: u32, name: Option<&str>, keep: &CapsHashSet) -> Result<(), LaunchError> {
    bound(keep)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    match name.and_then(|name| CString::new(name).ok()) {
        Some(name) => initgroups(&name, gid).doing("set the user's groups")?,
        None => setgroups(&[]).doing("leave all groups")?,
    }
    prctl::set_keepcaps(!keep.is_empty()).doing("keep capabilities")?;
    setresgid(gid, gid, gid).doing(format!("become group {gid}"))?;
    setresuid(uid, uid, uid).doing(format!("become user {uid}"))?;
    narrow(keep)?;
    for capability in keep {
        caps::raise(None, CapSet::Ambient, *capability)?;
    }
    Ok(())
}

fn reduce(keep: &CapsHashSet) -> Result<(), LaunchError> {
    bound(keep)?;
    caps::clear(None, CapSet::Ambient)?;
    narrow(keep)
}

fn bound(keep: &CapsHashSet) -> Result<(), LaunchError> {
    for capability in caps::read(None, CapSet::Bounding)?.difference(keep) {
        caps::drop(None, CapSet::Bounding, *capability)?;
    }
    Ok(())
}

fn narrow(keep: &CapsHashSet) -> Result<(), LaunchError> {
    caps::set(None, CapSet::Effective, keep)?;
    caps::set(None, CapSet::Permitted, keep)?;
    caps::set(None, CapSet::Inheritable, keep)?;
    Ok(())
}

fn set(names: &[String]) -> Result<CapsHashSet, LaunchError> {
    let parse = |name: &String| {
        name.parse::<Capability>()
            .map_err(|_| LaunchError::UnknownCapability(name.clone()))
    };
    names.iter().map(parse).collect()
}
