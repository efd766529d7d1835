//! Reaches the broker of a running `up` through a Unix socket in its data directory, so that other
//! processes of the machine see it like any other [`Broker`](super::Broker).
//!
//! One connection a call: a length-prefixed JSON request, a length-prefixed JSON answer (a stream
//! of them for a watch). A closed connection cancels the call. The socket is for its owner alone
//! (0600 in a 0700 directory); whoever reaches it may do everything.

mod client;
mod server;
mod wire;

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

pub use client::SocketBroker;
pub use server::{SocketServer, serve};

/// The socket's name in the data directory.
pub const FILE_NAME: &str = "up.sock";

/// Socket addresses hold about a hundred bytes; a longer path goes through a descriptor of its
/// directory, which must stay open while the address is used.
fn address(data_dir: &Path) -> io::Result<(PathBuf, Option<File>)> {
    const FITS: usize = 100;
    let direct = data_dir.join(FILE_NAME);
    if direct.as_os_str().len() <= FITS {
        return Ok((direct, None));
    }
    let dir = File::open(data_dir)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}/{FILE_NAME}", dir.as_raw_fd()));
    Ok((short, Some(dir)))
}
