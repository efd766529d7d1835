//! Power cuts: an ext4 on a loop device that forgets, from one moment to the next, all that it had not put on its
//! disk, journal included.

use std::{
    fs::File,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use super::{
    mounts::{Mounts, skipped},
    random::{Random, number},
    writer::{Said, found, is_durable, start},
};

const WHAT: &str = "power cuts";
const IMAGE_BYTES: u64 = 64 << 20;

/// A file system of its own, on a disk that is a file.
struct Disk {
    image: PathBuf,
    at: PathBuf,
    mounts: Mounts,
}

impl Disk {
    fn new(directory: &Path) -> Option<Self> {
        let mounts = Mounts::new(WHAT)?;
        let (image, at) = (directory.join("image"), directory.join("mount"));
        File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        std::fs::create_dir(&at).unwrap();
        let made = Command::new("mkfs.ext4").arg("-qF").arg(&image).output();
        let mut disk = Self { image, at, mounts };
        let ready = match made {
            Ok(made) if made.status.success() => disk.switch_on(),
            Ok(made) => Err(String::from_utf8_lossy(&made.stderr).into_owned()),
            Err(error) => Err(format!("mkfs.ext4: {error}")),
        };
        match ready {
            Ok(()) => Some(disk),
            Err(reason) => {
                skipped(WHAT, &reason);
                None
            }
        }
    }

    fn switch_on(&mut self) -> Result<(), String> {
        let image = self.image.to_str().unwrap();
        self.mounts
            .mount(&self.at, &["-t", "ext4", "-o", "loop", image])
    }

    /// From now on nothing reaches the disk.
    #[allow(unsafe_code, reason = "there is no safe call for this request")]
    fn cut_the_power(&self) {
        /// `_IOR('X', 125, __u32)` of the kernel's `ext4.h`.
        const EXT4_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;
        const NOTHING_FLUSHED: u32 = 2;
        let root = File::open(&self.at).unwrap();
        // SAFETY: the kernel reads four bytes behind the pointer.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &NOTHING_FLUSHED) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }

    fn switch_off(&mut self) {
        self.mounts.unmount(&self.at);
    }
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "a cut has its moment, nothing is waited for"
)]
fn what_was_synced_survives_power_cuts() {
    let (seed, rounds) = (number("TORTURE_SEED", 1), number("TORTURE_ROUNDS", 12));
    println!("TORTURE_SEED={seed} TORTURE_ROUNDS={rounds}");
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    let Some(mut disk) = Disk::new(directory.path()) else {
        return;
    };
    let path = disk.at.join("data/store");
    let (mut said, mut forgotten) = (Said::new(), 0);
    for round in 0..rounds {
        let mut victim = start(&path);
        victim.is_opening();
        if round % 3 == 2 {
            sleep(Duration::from_micros(random.below(12_000)));
        } else {
            victim.is_writing();
            victim.confirms(1 + random.below(300) as usize, &mut said);
        }
        // Never synced: a cut that spares it is none.
        let witness = disk.at.join(format!("witness-{round}"));
        std::fs::write(&witness, "not synced").unwrap();
        disk.cut_the_power();
        victim.kill(&mut said);
        disk.switch_off();
        disk.switch_on().unwrap();
        let spared = std::fs::read(&witness).is_ok_and(|bytes| !bytes.is_empty());
        assert!(!spared, "round {round}: the power was not cut");
        let found = found(&path);
        for (writer, count) in &said {
            let (is_there, told) = (found[writer], *count);
            forgotten += u64::from(is_there < told);
            assert!(
                is_there >= told || !is_durable(*writer),
                "seed {seed}, round {round}: writer {writer} was told {told}, and {is_there} is there"
            );
        }
        // The writers go on from what is there.
        said.retain(|writer, told| *told <= found[writer]);
    }
    let confirmed: u64 = said.values().sum();
    println!(
        "{rounds} cuts; {confirmed} confirmed; {forgotten} times a writer that had not asked for a sync lost something"
    );
    assert!(confirmed > rounds, "{confirmed}");
    disk.switch_off();
}
