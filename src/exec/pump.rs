//! Reads a child's output as fast as it comes, whatever becomes of it afterwards.

use std::{cell::RefCell, io, os::fd::OwnedFd};

use rustix::fs::{OFlags, fcntl_setfl};
use tokio::net::unix::pipe::Receiver;

use super::Output;
use crate::broker::LogStream;

/// Bytes read at once; a pipe holds 64 KiB.
const READ: usize = 64 * 1024;

thread_local! {
    /// What was just read: thousands of jobs that are silent need no room each.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(READ));
}

/// The reading ends of a child's output.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// Reads both pipes to their end.
pub(super) async fn drain(pipes: Pipes, output: &Output) {
    tokio::join!(
        read(pipes.stdout, LogStream::Stdout, output),
        read(pipes.stderr, LogStream::Stderr, output)
    );
}

async fn read(pipe: Option<OwnedFd>, stream: LogStream, output: &Output) {
    let Some(pipe) = pipe else {
        return;
    };
    if let Err(error) = read_to_end(pipe, stream, output).await {
        output.remark(&format!("reading the output failed: {error}"));
    }
}

async fn read_to_end(pipe: OwnedFd, stream: LogStream, output: &Output) -> io::Result<()> {
    fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
    let pipe = Receiver::from_owned_fd_unchecked(pipe)?;
    loop {
        pipe.readable().await?;
        match read_once(&pipe, stream, output) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn read_once(pipe: &Receiver, stream: LogStream, output: &Output) -> io::Result<usize> {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.clear();
        let count = pipe.try_read_buf(buffer)?;
        if count > 0 {
            output.push(stream, buffer);
        }
        Ok(count)
    })
}
