//! Where control groups may be made, and which controllers are there.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::{fs::getxattr, io::Errno};
use tracing::debug;

/// What limits need.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// Where workers go that have to leave their group, because a group that hands on controllers must hold
/// no process itself.
const WORKERS: &str = "orchestrator-workers";

/// Whether and where a worker makes control groups for its runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Cgroup {
    /// In its own group if that is delegated to it.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// In this directory, which must be a group of version 2 that it may write to.
    At(PathBuf),
}

impl FromStr for Cgroup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            path if path.starts_with('/') => Ok(Self::At(PathBuf::from(path))),
            other => Err(format!(
                "`{other}` is neither `auto` nor `off` nor the absolute path of a control group"
            )),
        }
    }
}

/// Hands the controllers on to `directory` and what is below it. Returns those that are there.
pub(super) fn hand_on(base: &Path, directory: &Path) -> Vec<&'static str> {
    for controller in CONTROLLERS {
        if !enable(base, controller) {
            debug!(target: "orchestrator::exec", controller, base = %base.display(),
                "this controller is not delegated");
        }
    }
    CONTROLLERS
        .into_iter()
        .filter(|controller| enable(directory, controller))
        .collect()
}

/// Hands a controller on to the groups below.
fn enable(group: &Path, controller: &str) -> bool {
    let listed = |file: &str| {
        let text = fs::read_to_string(group.join(file)).unwrap_or_default();
        text.split_ascii_whitespace().any(|name| name == controller)
    };
    let file = group.join("cgroup.subtree_control");
    let write = || fs::write(&file, format!("+{controller}"));
    if listed("cgroup.subtree_control") {
        return true;
    }
    if !listed("cgroup.controllers") {
        return false;
    }
    match write() {
        Ok(()) => true,
        // This process is in it.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {
            leave(group).and_then(|()| write()).is_ok()
        }
        Err(_) => false,
    }
}

/// Moves this process into a group of its own below the one it is in.
fn leave(group: &Path) -> io::Result<()> {
    if own().as_deref() != Ok(group) {
        return Err(io::Error::other("other processes are in it"));
    }
    let workers = group.join(WORKERS);
    match fs::create_dir(&workers) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::write(workers.join("cgroup.procs"), std::process::id().to_string())
}

/// The group in which this process may make others: its own or the one above, if somebody handed it over, or
/// if nothing is above it.
pub(super) fn delegated() -> Result<PathBuf, String> {
    let own = own()?;
    let mark = [
        Some(own.as_path()),
        own.parent()
            .filter(|parent| parent.join("cgroup.procs").exists()),
    ];
    let found = mark
        .into_iter()
        .flatten()
        .find(|group| is_handed_over(group));
    match found {
        Some(group) => Ok(group.to_owned()),
        None => Err(format!(
            "its control group {} is not delegated to it (systemd: `Delegate=yes`)",
            own.display()
        )),
    }
}

/// systemd marks the groups that it delegates; whoever sees a root sees all that he was given.
fn is_handed_over(group: &Path) -> bool {
    let is_root = || {
        !group
            .parent()
            .is_some_and(|parent| parent.join("cgroup.procs").exists())
    };
    let is_marked = |name: &str| {
        let mut value = [0; 1];
        getxattr(group, name, &mut value).is_ok_and(|read| value[..read] == *b"1")
    };
    is_root() || is_marked("user.delegate") || is_marked("trusted.delegate")
}

/// The group of version 2 in which this process is.
fn own() -> Result<PathBuf, String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let groups = read("/proc/self/cgroup")?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let path = path.ok_or("this machine has no control groups of version 2")?;
    let mount = mounted(&read("/proc/self/mountinfo")?);
    let mount = mount.ok_or("control groups of version 2 are not mounted")?;
    Ok(mount.join(path.trim_start_matches('/')))
}

/// Where control groups of version 2 are mounted as a whole.
fn mounted(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (file_system.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_is_found_among_all_mounts() {
        let hybrid = "24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             25 24 0:23 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
             34 24 0:30 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(mounted(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mounted("30 23 0:26 /a /b rw - cgroup2 cgroup2 rw\n"), None);
        assert_eq!(mounted(""), None);
    }

    #[test]
    fn the_place_is_chosen() {
        assert_eq!("auto".parse(), Ok(Cgroup::Auto));
        assert_eq!("off".parse(), Ok(Cgroup::Off));
        assert_eq!("/sys/x".parse(), Ok(Cgroup::At("/sys/x".into())));
        assert!("x".parse::<Cgroup>().is_err());
    }
}
