//! The command in a directory of its own.

use std::{fs, path::PathBuf};

use assert_cmd::Command;
use orchestrator::schedules::{Loaded, load};
use tempfile::TempDir;

pub struct Cli {
    pub dir: TempDir,
}

pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Cli {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn with(name: &str, content: impl AsRef<[u8]>) -> Self {
        let cli = Self::new();
        fs::write(cli.path(name), content).unwrap();
        cli
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `orchestrator import …` with that standard input.
    pub fn import_from(&self, args: &[&str], stdin: impl Into<Vec<u8>>) -> Output {
        let output = Command::new(env!("CARGO_BIN_EXE_orchestrator"))
            .arg("import")
            .args(args)
            .args(["--color", "never"])
            .env_clear()
            .current_dir(self.dir.path())
            .write_stdin(stdin)
            .timeout(std::time::Duration::from_secs(60))
            .output()
            .unwrap();
        Output {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn import(&self, args: &[&str]) -> Output {
        self.import_from(args, "")
    }

    /// What the loader makes of a file; it must be right.
    pub fn checked(&self, toml: &str) -> Loaded {
        let file = self.path("imported.toml");
        fs::write(&file, toml).unwrap();
        match load(&[file], orchestrator::clock::now()) {
            Ok(loaded) => loaded,
            Err(error) => panic!("{:?}\n{toml}", error.diagnostics),
        }
    }
}
