//! Asks the C library for users, so that directories of users count as they do for every other program. To be asked before
//! a child is started: it reads files and takes locks.

use std::{
    ffi::{CStr, CString, OsString, c_char, c_int},
    io,
    os::unix::ffi::OsStringExt,
    ptr,
};

use rustix::process::{Gid, Uid, geteuid};

/// What is known of a user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::exec) struct Account {
    pub(in crate::exec) name: OsString,
    pub(in crate::exec) uid: Uid,
    pub(in crate::exec) gid: Gid,
    pub(in crate::exec) home: OsString,
    pub(in crate::exec) shell: OsString,
}

/// The first size of the buffer for the texts of an entry, and the largest.
const BUFFER: (usize, usize) = (1 << 10, 1 << 20);
/// How many groups a user may be in: what Linux takes.
const MOST_GROUPS: usize = 1 << 16;

impl Account {
    /// The user with this name, if there is one.
    #[allow(unsafe_code, reason = "the standard library does not know users")]
    pub(in crate::exec) fn named(name: &str) -> io::Result<Option<Self>> {
        let Ok(name) = CString::new(name) else {
            return Ok(None);
        };
        // SAFETY: the name ends with a nul byte; the rest is what `entry` passes on.
        entry(|found, buffer, length, result| unsafe {
            libc::getpwnam_r(name.as_ptr(), found, buffer, length, result)
        })
    }

    /// The user of this process, if it is known.
    #[allow(unsafe_code, reason = "the standard library does not know users")]
    pub(in crate::exec) fn own() -> io::Result<Option<Self>> {
        let uid = geteuid().as_raw();
        // SAFETY: what `entry` passes on.
        entry(|found, buffer, length, result| unsafe {
            libc::getpwuid_r(uid, found, buffer, length, result)
        })
    }

    /// All groups that the user is in, the one of its entry among them.
    #[allow(unsafe_code, reason = "the standard library does not know groups")]
    pub(in crate::exec) fn groups(&self) -> io::Result<Vec<Gid>> {
        let name = CString::new(self.name.clone().into_vec())?;
        let mut groups: Vec<libc::gid_t> = vec![0; 64];
        loop {
            let mut count = c_int::try_from(groups.len()).unwrap_or(c_int::MAX);
            // SAFETY: the name ends with a nul byte, and `count` says how many groups there is room for.
            let fits = unsafe {
                let (first, gid) = (groups.as_mut_ptr(), self.gid.as_raw());
                libc::getgrouplist(name.as_ptr(), gid, first, &mut count) >= 0
            };
            let count = usize::try_from(count).unwrap_or(0);
            if fits {
                groups.truncate(count);
                return Ok(groups.into_iter().map(Gid::from_raw).collect());
            }
            if groups.len() >= MOST_GROUPS {
                return Err(io::Error::other("it is in too many groups"));
            }
            // Not every C library says how many there are.
            groups.resize(count.max(groups.len() * 2).min(MOST_GROUPS), 0);
        }
    }
}

/// Calls one of the C library's functions for users, with more room until it is enough.
#[allow(unsafe_code, reason = "the C library fills in what it is given")]
fn entry(
    ask: impl Fn(*mut libc::passwd, *mut c_char, usize, *mut *mut libc::passwd) -> c_int,
) -> io::Result<Option<Account>> {
    let (mut length, longest) = BUFFER;
    loop {
        let mut buffer: Vec<c_char> = vec![0; length];
        let mut result = ptr::null_mut();
        // SAFETY: all zeroes are a valid entry: numbers, and pointers that are null.
        let mut found: libc::passwd = unsafe { std::mem::zeroed() };
        match ask(&mut found, buffer.as_mut_ptr(), length, &mut result) {
            0 if result.is_null() => return Ok(None),
            0 => {
                // SAFETY: the texts of an entry that was found lie in `buffer` and end with a nul byte.
                let text = |text: *const c_char| match text.is_null() {
                    true => OsString::new(),
                    false => {
                        OsString::from_vec(unsafe { CStr::from_ptr(text) }.to_bytes().to_vec())
                    }
                };
                return Ok(Some(Account {
                    name: text(found.pw_name),
                    uid: Uid::from_raw(found.pw_uid),
                    gid: Gid::from_raw(found.pw_gid),
                    home: text(found.pw_dir),
                    shell: text(found.pw_shell),
                }));
            }
            libc::ERANGE if length < longest => length *= 4,
            libc::EINTR => {}
            // What libraries say in place of nobody.
            libc::ENOENT | libc::ESRCH => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_known_by_name() {
        let root = Account::named("root").unwrap().unwrap();
        assert_eq!((root.uid.as_raw(), root.gid.as_raw()), (0, 0));
        assert_eq!(root.name, "root");
        assert!(root.groups().unwrap().contains(&root.gid));
        for nobody in ["no-such-user-here", "", "a\0b"] {
            assert_eq!(Account::named(nobody).unwrap(), None, "{nobody:?}");
        }
        let own = Account::own().unwrap();
        assert!(own.is_none_or(|own| own.uid == geteuid()));
    }
}
