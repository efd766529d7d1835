//! Whether a directory is on a disk of this machine. Locks and syncs over a network are promises of another one.

use std::path::Path;

use tracing::warn;

/// The types of `statfs(2)`, as in the kernel's `magic.h` and the sources of its file systems.
const REMOTE: [(u32, &str); 7] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB 2"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x0102_1997, "9P"),
];

/// Warns of a directory that is not.
pub(super) fn look(directory: &Path) {
    // What cannot be found out is not held against it.
    let Ok(found) = rustix::fs::statfs(directory) else {
        return;
    };
    // The type has another width and sign on each architecture; the numbers have 32 bits.
    if let Some(name) = remote(found.f_type as u32) {
        warn!(target: "orchestrator::store", directory = %directory.display(), file_system = name,
            "the data directory is on a network: what is confirmed there may not survive a loss of power; use a \
             local disk");
    }
}

fn remote(file_system: u32) -> Option<&'static str> {
    let found = REMOTE.iter().find(|(number, _)| *number == file_system);
    found.map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_over_a_network_are_known() {
        for (number, name) in [(0x6969, Some("NFS")), (0xef53, None), (0x0102_1994, None)] {
            assert_eq!(remote(number), name, "{number:x}");
        }
    }
}
