//! What others have written, made harmless for a terminal: names, reasons and output come from jobs, and a terminal obeys
//! what looks like a command to it.

/// How many bytes a colour may have; a longer one is none.
const LONGEST_COLOR: usize = 64;
/// Stands for what has no picture.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// The text with pictures in place of control characters; lines and tabs stay.
pub fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c => picture(c),
        })
        .collect()
}

/// The same for a text that is to stay within its line.
pub fn one_line(text: &str) -> String {
    text.chars().map(picture).collect()
}

/// Whether a terminal moves, erases or turns what is written for it.
pub fn obeyed(c: char) -> bool {
    picture(c) != c
}

/// A character that shows what another one would do: those that move, erase or turn what is written.
fn picture(c: char) -> char {
    match c {
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or(REPLACEMENT),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => REPLACEMENT,
        c => c,
    }
}

/// Output that comes in pieces, on its way to a terminal: text and, if they are wanted, colours. Whatever else a terminal
/// would obey is shown.
#[derive(Debug)]
pub struct Shown {
    colors: bool,
    /// The beginning of a colour or of a character, cut by the end of a piece.
    pending: Vec<u8>,
    /// Whether a colour may still be on.
    colored: bool,
}

/// What the next bytes are.
enum Next {
    Color(usize),
    Text(char, usize),
    /// The next piece has the rest.
    Cut,
}

impl Shown {
    /// With or without colours.
    pub fn new(colors: bool) -> Self {
        Self {
            colors,
            pending: Vec::new(),
            colored: false,
        }
    }

    /// The next piece.
    pub fn piece(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.pending.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.pending);
        let (mut rest, mut shown) = (all.as_slice(), String::new());
        while !rest.is_empty() {
            match next(rest) {
                Next::Color(length) => {
                    if self.colors && is_seen(&rest[..length]) {
                        shown.push_str(&String::from_utf8_lossy(&rest[..length]));
                        self.colored = true;
                    }
                    rest = &rest[length..];
                }
                Next::Text(c, length) => {
                    shown.push(match c {
                        '\n' | '\t' | '\r' => c,
                        c => picture(c),
                    });
                    rest = &rest[length..];
                }
                Next::Cut => {
                    self.pending = rest.to_vec();
                    break;
                }
            }
        }
        shown.into_bytes()
    }

    /// What ends it: nothing that follows is to have its colours.
    pub fn end(&mut self) -> Vec<u8> {
        let mut last: String = String::from_utf8_lossy(&std::mem::take(&mut self.pending))
            .chars()
            .map(picture)
            .collect();
        if std::mem::take(&mut self.colored) {
            last.push_str("\x1b[0m");
        }
        last.into_bytes()
    }
}

/// Whether what follows a colour can be seen: 8 conceals it. The numbers of a colour of many are none of these.
fn is_seen(color: &[u8]) -> bool {
    let inner = color.get(2..color.len().saturating_sub(1));
    let text = String::from_utf8_lossy(inner.unwrap_or_default());
    let number = |part: &str| part.parse::<u64>();
    let mut parts = text.split(';');
    while let Some(part) = parts.next() {
        let mut within = part.split(':');
        match within.next().map(number) {
            Some(Ok(8)) => return false,
            Some(Ok(38 | 48 | 58)) if within.next().is_none() => {
                let last = match parts.next().map(number) {
                    Some(Ok(5)) => 0,
                    Some(Ok(2)) => 2,
                    Some(_) | None => return false,
                };
                let _ = parts.nth(last);
            }
            Some(_) | None => {}
        }
    }
    true
}

fn next(rest: &[u8]) -> Next {
    match rest {
        [0x1b] => Next::Cut,
        [0x1b, b'[', sequence @ ..] => {
            let is_parameter = |byte: &u8| matches!(byte, b'0'..=b'9' | b';' | b':');
            let parameters = sequence
                .iter()
                .take_while(|byte| is_parameter(byte))
                .count();
            match sequence.get(parameters) {
                _ if parameters > LONGEST_COLOR => Next::Text('\x1b', 1),
                Some(b'm') => Next::Color(parameters + 3),
                Some(_) => Next::Text('\x1b', 1),
                None => Next::Cut,
            }
        }
        _ => character(rest),
    }
}

fn character(rest: &[u8]) -> Next {
    let longest = &rest[..rest.len().min(4)];
    let valid = match std::str::from_utf8(longest) {
        Ok(text) => text,
        Err(error) if error.valid_up_to() > 0 => {
            std::str::from_utf8(&longest[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(error) => match error.error_len() {
            Some(length) => return Next::Text(REPLACEMENT, length),
            None if rest.len() < 4 => return Next::Cut,
            None => return Next::Text(REPLACEMENT, 1),
        },
    };
    match valid.chars().next() {
        Some(c) => Next::Text(c, c.len_utf8()),
        None => Next::Text(REPLACEMENT, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(colors: bool, pieces: &[&[u8]]) -> String {
        let mut shown = Shown::new(colors);
        let mut all: Vec<u8> = pieces.iter().flat_map(|piece| shown.piece(piece)).collect();
        all.extend(shown.end());
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn texts_keep_to_their_place() {
        assert_eq!(
            harmless("a\x1b[2Jb\r\n\tc\u{9b}31m"),
            "a␛[2Jb␍\n\tc\u{fffd}31m"
        );
        assert_eq!(
            one_line("exit 1\nstate succeeded\x07"),
            "exit 1␊state succeeded␇"
        );
        assert_eq!(one_line("user\u{202e}gpj.exe\x7f"), "user\u{fffd}gpj.exe␡");
        assert_eq!(one_line("grün – ☃"), "grün – ☃");
    }

    #[test]
    fn output_has_colours_and_nothing_else_that_a_terminal_obeys() {
        let red = b"\x1b[31mred\x1b[0m\n".as_slice();
        assert_eq!(shown(true, &[red]), "\x1b[31mred\x1b[0m\n\x1b[0m");
        assert_eq!(shown(false, &[red]), "red\n");
        // The clipboard, the title, the cursor, the answer to a question, the alternate screen.
        let hostile = b"\x1b]52;c;ZXZpbA==\x07\x1b]0;t\x1b\\\x1b[2J\x1b[6n\x1b[?1049h\x1bc\x0e\x08"
            .as_slice();
        let found = shown(true, &[hostile]);
        assert!(
            !found.contains(['\x1b', '\x07', '\x0e', '\x08']),
            "{found:?}"
        );
        assert!(found.starts_with("␛]52;c;ZXZpbA==␇"), "{found:?}");
        assert_eq!(shown(true, &["\u{9b}2J".as_bytes()]), "\u{fffd}2J");
        assert_eq!(shown(true, &[b"\x9b2J\xff"]), "\u{fffd}2J\u{fffd}");
        assert_eq!(shown(true, &[b"10%\r20%\n"]), "10%\r20%\n");
    }

    #[test]
    fn nothing_is_concealed() {
        for hidden in [
            "8",
            "1;8",
            "08",
            "38;5;8;8",
            "38;2;1;2;8;8",
            "8:1",
            "38;9;8",
        ] {
            let text = format!("a\x1b[{hidden}mb");
            assert_eq!(shown(true, &[text.as_bytes()]), "ab", "{hidden}");
        }
        for color in ["", "0", "1;31", "38;5;8", "38;2;8;8;8", "38:5:8", "28"] {
            let text = format!("a\x1b[{color}mb");
            let expected = format!("{text}\x1b[0m");
            assert_eq!(shown(true, &[text.as_bytes()]), expected, "{color}");
        }
    }

    #[test]
    fn pieces_may_be_cut_anywhere() {
        let whole = "a\x1b[1;32mgrün ☃ \u{9b}\x1b]0;t\x07\x1b[0m\r\n".as_bytes();
        let expected = shown(true, &[whole]);
        for at in 0..=whole.len() {
            let (front, back) = whole.split_at(at);
            assert_eq!(shown(true, &[front, back]), expected, "{at}");
        }
        assert_eq!(shown(true, &[b"\x1b[31"]), "␛[31");
        let endless = [b"\x1b[".as_slice(), &[b'1'; 500]].concat();
        assert_eq!(shown(true, &[&endless]).len(), 504);
    }
}
