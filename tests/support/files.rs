//! Looking for something in everything that was written.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// All files below a directory.
pub fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(below(&entry.path())),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// Whether a text stands somewhere in these bytes.
pub fn has(bytes: &[u8], text: &str) -> bool {
    let mut parts = bytes.windows(text.len());
    parts.any(|part| part == text.as_bytes())
}

/// Asserts that no process of this machine has the text in its command line, which everybody can see.
pub fn assert_in_no_command_line(text: &str) {
    for process in fs::read_dir("/proc").unwrap() {
        let line = fs::read(process.unwrap().path().join("cmdline"));
        assert!(
            !line.is_ok_and(|line| has(&line, text)),
            "a command line has it"
        );
    }
}
