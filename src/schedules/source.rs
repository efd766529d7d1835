//! A file's text, and where in it something stands.

use std::{
    cell::OnceCell,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

/// One schedule file, read.
#[derive(Debug, Clone)]
pub struct Source {
    /// How messages call the file.
    pub name: Arc<str>,
    /// The TOML.
    pub text: Arc<str>,
    /// The directory from which a relative `working_dir` counts.
    pub dir: Arc<Path>,
}

impl Source {
    /// A file with its text.
    pub fn new(name: impl AsRef<str>, text: impl AsRef<str>, dir: PathBuf) -> Self {
        Self {
            name: name.as_ref().into(),
            text: text.as_ref().into(),
            dir: dir.into(),
        }
    }
}

/// A line and a column, both from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Finds positions in a text; the table of lines is made when the first one is asked for.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: OnceCell<Vec<usize>>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            starts: OnceCell::new(),
        }
    }

    pub(super) fn position(&self, at: usize) -> Position {
        let starts = self.starts.get_or_init(|| {
            let breaks = self.text.match_indices('\n').map(|(at, _)| at + 1);
            std::iter::once(0).chain(breaks).collect()
        });
        let line = starts.partition_point(|&start| start <= at);
        let start = starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..at).unwrap_or_default();
        Position {
            line,
            column: before.chars().count() + 1,
        }
    }
}

/// The range, made to lie within the text and on characters.
pub(super) fn clamp(text: &str, span: Range<usize>) -> Range<usize> {
    let floor = |at: usize| {
        let at = at.min(text.len());
        (0..=at).rev().find(|&at| text.is_char_boundary(at))
    };
    let start = floor(span.start).unwrap_or(0);
    start..floor(span.end).unwrap_or(start).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let lines = Lines::new("a = 1\nö = 2\n");
        let at = |at| {
            let position = lines.position(at);
            (position.line, position.column)
        };
        assert_eq!(at(0), (1, 1));
        assert_eq!(at(5), (1, 6));
        assert_eq!(at(6), (2, 1));
        assert_eq!(at(9), (2, 3));
        assert_eq!(at(13), (3, 1));
    }

    #[test]
    fn spans_are_kept_within_the_text() {
        assert_eq!(clamp("aö", 2..9), 1..3);
        assert_eq!(clamp("", 5..7), 0..0);
    }
}
