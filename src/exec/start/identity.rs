//! Makes a child another user's, for good. Only system calls that concern the calling thread: the C library's own functions
//! tell every thread of a process, and a child that was just forked has but one.

use rustix::{
    io::Result,
    process::{Gid, Uid},
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

/// Who a child is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::exec) enum Identity {
    /// The user of this process, without its capabilities.
    Own,
    /// Another one, or the same with the groups that are its own.
    Of {
        /// The user.
        uid: Uid,
        /// Its group.
        gid: Gid,
        /// All groups that it is in.
        groups: Vec<Gid>,
    },
}

impl Identity {
    /// Who files that are made for the child have to belong to, if they do not already.
    pub(in crate::exec) fn owner(&self) -> Option<(Uid, Gid)> {
        match self {
            Self::Own => None,
            Self::Of { uid, gid, .. } => Some((*uid, *gid)),
        }
    }
}

/// Groups first: once the user has changed, they cannot be. Real, effective and saved ids are set, so there is no way back.
/// The kernel takes capabilities away only from who was root; here nobody keeps any.
pub(super) fn assume(identity: &Identity) -> Result<()> {
    if let Identity::Of { uid, gid, groups } = identity {
        set_thread_groups(groups)?;
        set_thread_res_gid(*gid, *gid, *gid)?;
        set_thread_res_uid(*uid, *uid, *uid)?;
    }
    // Linux before 4.3 has no such set.
    let _ = clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )
}
