//! How long a run takes from the call that publishes it to the first output of its shell.

use std::{path::PathBuf, process::Stdio, time::Duration};

use rustix::fs::{CWD, Mode, mkfifoat};
use tokio::{io::AsyncReadExt, net::unix::pipe};

use super::{
    BenchError, BenchOptions, PATIENCE, new_queue,
    runs::{self, Working},
};
use crate::{
    broker::SharedBroker,
    clock,
    job::{Execute, RunSpec},
};

/// Tells that it has started.
const SCRIPT: &str = "echo >> \"$BENCH_PIPE\"";
/// Runs that are not counted: connections, consumers and caches are made by the first ones.
const WARM_UP: usize = 20;
/// From the end of one run to the next.
const PAUSE: Duration = Duration::from_millis(10);

/// A pipe with a name, removed when it is dropped.
struct Fifo(PathBuf);

impl Drop for Fifo {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The delays of runs, and those of the same shell spawned directly.
pub(super) async fn delays(
    broker: &SharedBroker,
    options: &BenchOptions,
) -> Result<(Vec<Duration>, Vec<Duration>), BenchError> {
    let failed = |source| BenchError::Machine {
        what: "start a shell that writes into a pipe in the directory for temporary files",
        source,
    };
    let name = format!("orchestrator-bench-{}", uuid::Uuid::new_v4().simple());
    let fifo = Fifo(std::env::temp_dir().join(name));
    mkfifoat(CWD, &fifo.0, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?;
    let mut reader = pipe::OpenOptions::new()
        .read_write(true)
        .open_receiver(&fifo.0)
        .map_err(failed)?;
    let mut spec = RunSpec::new(Execute::Shell(SCRIPT.to_owned()));
    let path = fifo.0.to_string_lossy().into_owned();
    spec.env.insert("BENCH_PIPE".to_owned(), path.clone());
    let mut shell = tokio::process::Command::new("/bin/sh");
    shell
        .args(["-c", SCRIPT])
        .env("BENCH_PIPE", path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let queue = new_queue()?;
    let working = Working::start(broker, options, &queue, (options.concurrency, false))?;
    let (mut delays, mut shells) = (Vec::new(), Vec::new());
    for count in 0..WARM_UP + options.delays {
        let start = clock::monotonic();
        runs::publish_one(broker, &queue, &spec).await?;
        let mut line = [0; 1];
        let read = tokio::time::timeout(PATIENCE, reader.read_exact(&mut line)).await;
        let delay = start.elapsed();
        read.map_err(|_| BenchError::Stuck("no run started"))?
            .map_err(failed)?;
        tokio::time::sleep(PAUSE).await;
        let start = clock::monotonic();
        let child = shell.spawn().map_err(failed)?;
        reader.read_exact(&mut line).await.map_err(failed)?;
        let alone = start.elapsed();
        child.wait_with_output().await.map_err(failed)?;
        if count >= WARM_UP {
            delays.push(delay);
            shells.push(alone);
        }
        tokio::time::sleep(PAUSE).await;
    }
    working.stop().await;
    Ok((delays, shells))
}
