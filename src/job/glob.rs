//! Patterns of names and paths: `*` is any part of a name, `**` also goes over slashes, `?` is one character.

use std::{fmt, str::FromStr};

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Box<str>);

impl Glob {
    /// Whether the whole text fits.
    pub fn matches(&self, text: &str) -> bool {
        fits(self.0.as_bytes(), text.as_bytes())
    }

    /// The pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Glob {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Row by row: which beginnings of the text fit the pattern so far. So it takes time in proportion to the product of the
/// lengths, whatever the pattern is.
fn fits(mut pattern: &[u8], text: &[u8]) -> bool {
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    while let Some((&first, rest)) = pattern.split_first() {
        pattern = rest;
        let crosses = first == b'*' && pattern.first() == Some(&b'*');
        while first == b'*' && pattern.first() == Some(&b'*') {
            pattern = &pattern[1..];
        }
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            let before = at.checked_sub(1).map(|before| (text[before], before));
            next[at] = match (first, before) {
                (b'*', None) => row[0],
                (b'*', Some((c, before))) => row[at] || next[before] && (crosses || c != b'/'),
                (b'?', Some((c, before))) => row[before] && c != b'/',
                (exact, Some((c, before))) => row[before] && c == exact,
                (_, None) => false,
            };
        }
        row = next;
    }
    row[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_texts() {
        let cases = [
            ("", "", true),
            ("crawl", "crawl", true),
            ("crawl", "crawler", false),
            ("crawl-*", "crawl-", true),
            ("crawl-*", "crawl-full", true),
            ("*", "anything", true),
            ("*-*-c", "a-b-c", true),
            ("*a*a*", "aba", true),
            ("*a*a*a*", "aba", false),
            ("/usr/bin/*", "/usr/bin/python3", true),
            ("/usr/bin/*", "/usr/bin/x/y", false),
            ("/usr/**", "/usr/bin/x/y", true),
            ("/usr/**/y", "/usr/bin/x/y", true),
            ("/usr/***", "/usr/a/b", true),
            ("/opt/?/run", "/opt/a/run", true),
            ("/opt/?/run", "/opt///run", false),
            ("?", "", false),
        ];
        for (pattern, text, expected) in cases {
            let glob: Glob = pattern.parse().unwrap();
            assert_eq!(glob.matches(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn no_pattern_takes_long() {
        let glob: Glob = "*a".repeat(500).parse().unwrap();
        assert!(!glob.matches(&"a".repeat(499)));
    }
}
