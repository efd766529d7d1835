//! File systems of a test's own, which can be small, full and read-only.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

/// The mounts of this thread and of what it starts; nobody else sees them. Undone when dropped.
#[derive(Debug)]
pub struct Mounts {
    points: Vec<PathBuf>,
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{program} {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

#[allow(unsafe_code, reason = "there is no safe way into a namespace")]
fn unshare_mounts() -> Result<(), String> {
    // SAFETY: concerns the calling thread alone, and no memory.
    match unsafe { libc::unshare(libc::CLONE_NEWNS) } {
        0 => Ok(()),
        _ => Err(format!(
            "no mount namespace: {}",
            std::io::Error::last_os_error()
        )),
    }
}

impl Mounts {
    /// A namespace for this thread. `None` where the machine does not allow it, which is told: whoever calls this
    /// skips what needs it.
    pub fn new(what: &str) -> Option<Self> {
        let allowed = unshare_mounts()
            .and_then(|()| run("mount", &["--make-rprivate", "/"]))
            .and_then(|()| run("mount", &["-t", "tmpfs", "none", "/mnt"]))
            .and_then(|()| run("umount", &["/mnt"]));
        match allowed {
            Ok(()) => Some(Self { points: Vec::new() }),
            Err(reason) => {
                skipped(what, &reason);
                None
            }
        }
    }

    /// A file system in memory of this size, as mount has it.
    pub fn tmpfs(&mut self, at: &Path, size: &str) {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={size},mode=700");
        self.mount(at, &["-t", "tmpfs", "-o", &options, "none"])
            .unwrap();
    }

    /// Mounts something there.
    pub fn mount(&mut self, at: &Path, args: &[&str]) -> Result<(), String> {
        run("mount", &[args, &[at.to_str().unwrap()]].concat())?;
        self.points.push(at.to_owned());
        Ok(())
    }

    /// Changes the options of a mount, if nobody is in the way.
    pub fn remount(&self, at: &Path, options: &str) -> Result<(), String> {
        let options = format!("remount,{options}");
        run("mount", &["-o", &options, at.to_str().unwrap()])
    }

    /// Takes the mount there away.
    pub fn unmount(&mut self, at: &Path) {
        run("umount", &[at.to_str().unwrap()]).unwrap();
        self.points.retain(|point| point != at);
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for point in self.points.iter().rev() {
            // In a test that fails a process may still be there.
            let _ = run("umount", &["--lazy", point.to_str().unwrap()]);
        }
    }
}

/// Says on standard error, past the capture of tests, that something was not tested.
pub fn skipped(what: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: {reason}");
}

/// Fills a file system to the last byte with a file.
pub fn fill(ballast: &Path) {
    let mut file = fs::File::create(ballast).unwrap();
    for size in [1 << 20, 4096, 1] {
        let block = vec![7; size];
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{}: {error}", ballast.display()),
            }
        }
    }
}
