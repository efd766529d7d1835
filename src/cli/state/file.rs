//! Writes the file of an export: whole or not at all, where that can be; straight into what is no file.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// So many links in a row are followed, as the kernel does.
const MOST_LINKS: usize = 40;

/// Where an export goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Standard output.
    Output,
    /// A device, a pipe, or an open descriptor: it is written to, and stays what it is.
    Straight(PathBuf),
    /// A file, behind all links: it is replaced when the new one is whole.
    Anew(PathBuf),
}

impl Target {
    /// What `file` stands for.
    pub(super) fn of(file: &Path) -> io::Result<Self> {
        if file == Path::new("-") {
            return Ok(Self::Output);
        }
        let mut path = file.to_owned();
        for _ in 0..MOST_LINKS {
            let of_a_process = path.parent().filter(|parent| is_of_descriptors(parent));
            match (of_a_process, path.file_name()) {
                (Some(_), Some(name)) if name == "1" => return Ok(Self::Output),
                (Some(_), _) => return Ok(Self::Straight(path)),
                (None, _) => {}
            }
            let found = match fs::symlink_metadata(&path) {
                Ok(found) => found.file_type(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Self::Anew(path));
                }
                Err(error) => return Err(error),
            };
            if !found.is_symlink() {
                return Ok(match found.is_file() || found.is_dir() {
                    true => Self::Anew(path),
                    false => Self::Straight(path),
                });
            }
            let target = fs::read_link(&path)?;
            path = match path.parent() {
                Some(directory) => directory.join(target),
                None => target,
            };
        }
        Err(io::Error::other("too many links in a row"))
    }
}

/// Whether what is in it are descriptors that this process has open.
fn is_of_descriptors(directory: &Path) -> bool {
    ["/dev/fd", "/proc/self/fd", "/proc/thread-self/fd"]
        .iter()
        .any(|of_descriptors| directory == Path::new(of_descriptors))
}

/// Writes to what is no file.
pub(super) fn write_straight(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut to = fs::File::options().append(true).open(path)?;
    to.write_all(bytes)?;
    to.flush()
}

/// Whole or not at all, and for this user alone.
pub(super) fn write_anew(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let about_partial =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", partial.display()));
    let mut begun = match begin(&partial) {
        // Left behind by one that was killed, or by somebody who wants us to write elsewhere: a link goes, not its target.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&partial).map_err(about_partial)?;
            begin(&partial).map_err(about_partial)?
        }
        begun => begun?,
    };
    let written = begun.write_all(bytes).and_then(|()| begun.sync_all());
    let written = written.and_then(|()| fs::rename(&partial, file));
    if written.is_err() {
        // If it is there at all, it is of no use.
        let _ = fs::remove_file(&partial);
    }
    written
}

/// A file that was not there: no link is followed.
fn begin(path: &Path) -> io::Result<fs::File> {
    fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn target(path: &Path) -> Target {
        Target::of(path).unwrap()
    }

    #[test]
    fn descriptors_are_no_files() {
        assert_eq!(target(Path::new("-")), Target::Output);
        assert_eq!(target(Path::new("/dev/fd/1")), Target::Output);
        assert_eq!(target(Path::new("/proc/self/fd/1")), Target::Output);
        let two = Path::new("/proc/self/fd/2");
        assert_eq!(target(two), Target::Straight(two.to_owned()));
    }

    #[test]
    fn links_are_followed_also_to_what_is_not_there_yet() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink("second", at("first")).unwrap();
        symlink(at("file"), at("second")).unwrap();
        assert_eq!(target(&at("first")), Target::Anew(at("file")));
        fs::write(at("file"), "old").unwrap();
        assert_eq!(target(&at("first")), Target::Anew(at("file")));
        symlink("round", at("round")).unwrap();
        assert!(Target::of(&at("round")).is_err());
        symlink("/proc/self/fd/1", at("out")).unwrap();
        assert_eq!(target(&at("out")), Target::Output);
    }
}
