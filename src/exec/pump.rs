//! Reads a child's output as fast as it comes, whatever becomes of it afterwards.

use std::process::{ChildStderr, ChildStdout};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::Output;
use crate::broker::LogStream;

/// Bytes read at once; a pipe holds 64 KiB.
const READ: usize = 64 * 1024;

/// The reading ends of a child's output.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

/// Reads both pipes to their end.
pub(super) async fn drain(pipes: Pipes, output: &Output) {
    let stdout = async {
        if let Some(pipe) = pipes.stdout {
            match tokio::process::ChildStdout::from_std(pipe) {
                Ok(pipe) => read(pipe, LogStream::Stdout, output).await,
                Err(error) => output.remark(&format!("cannot read standard output: {error}")),
            }
        }
    };
    let stderr = async {
        if let Some(pipe) = pipes.stderr {
            match tokio::process::ChildStderr::from_std(pipe) {
                Ok(pipe) => read(pipe, LogStream::Stderr, output).await,
                Err(error) => output.remark(&format!("cannot read standard error: {error}")),
            }
        }
    };
    tokio::join!(stdout, stderr);
}

async fn read(mut pipe: impl AsyncRead + Unpin, stream: LogStream, output: &Output) {
    let mut buffer = Vec::with_capacity(READ);
    loop {
        buffer.clear();
        match pipe.read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(_) => output.push(stream, &buffer),
            Err(error) => {
                output.remark(&format!("reading the output failed: {error}"));
                return;
            }
        }
    }
}
