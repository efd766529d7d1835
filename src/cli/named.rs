//! How errors show what somebody gave as the name of a file: never a secret that was given in its place, whole or damaged.

use std::path::Path;

/// The fewest characters of a word that begins as a seed does, and counts as one.
const SHORTEST: usize = 16;
/// No word in the name of a file is so long, whatever it begins with.
const LONG: usize = 40;

/// The name, or what it seems to be in place of one.
pub(super) fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    match is_secret(&text) {
        true => format!(
            "(a seed or key of {} characters, not shown: damaged, or given where a file is expected)",
            length(&text)
        ),
        false => path.display().to_string(),
    }
}

/// Whether this looks like the seed of an nkey, or like a private key. It may be damaged: cut off, quoted, with other letters
/// around it or in small ones.
pub(super) fn is_secret(text: &str) -> bool {
    let text = trimmed(text);
    let small = text.to_ascii_lowercase();
    begins_a_seed(text)
        || small.contains("-private:")
        || small.contains("-----begin")
        || has_a_seed(text)
        || is_key_in_base64(text)
}

/// How long it is, without what was put around it.
pub(super) fn length(text: &str) -> usize {
    trimmed(text).chars().count()
}

fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || "\"'`“”‘’".contains(c))
}

/// However little of it is left, if it has nothing of a path.
fn begins_a_seed(text: &str) -> bool {
    text.len() > 2 && text.starts_with("SU") && text.chars().all(|c| c.is_ascii_alphanumeric())
}

/// A seed among other things: with its beginning (`S` and whose it is), or so long that it can be nothing else.
fn has_a_seed(text: &str) -> bool {
    let is_seed = |word: &str| {
        let mut letters = word.bytes();
        let begins = letters.next() == Some(b'S')
            && letters.next().is_some_and(|kind| b"UAONCX".contains(&kind));
        word.len() >= LONG || (word.len() >= SHORTEST && begins)
    };
    let in_base32 = |c: char| c.is_ascii_alphabetic() || ('2'..='7').contains(&c);
    text.split(|c| !in_base32(c)).any(is_seed)
}

/// A private key without its beginning.
fn is_key_in_base64(text: &str) -> bool {
    let in_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    text.len() >= LONG && text.ends_with('=') && text.chars().all(in_base64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = "SUACYI4GJHBZSSL3DFQOQ3YQUUAQ6J7MX5C4VTOZ6PKXLZBYPVFQ5MBA4M";
    const KEY: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";

    #[test]
    fn no_secret_is_shown_in_place_of_a_file() {
        let secrets = [
            SEED.to_owned(),
            format!("\"{SEED}\""),
            format!(" '{SEED}'\n"),
            SEED[..57].to_owned(),
            SEED[..12].to_owned(),
            SEED[1..].to_owned(),
            format!("{SEED}A"),
            format!("x{SEED}"),
            format!("NKEY={SEED}"),
            format!("/etc/orchestrator/{SEED}"),
            SEED.to_ascii_lowercase(),
            SEED.replacen("SU", "SA", 1),
            format!("ed25519-private:{KEY}"),
            format!("\"ed25519-private:{KEY}\""),
            format!("d25519-private:{}", &KEY[..20]),
            format!("ED25519-PRIVATE:{KEY}"),
            KEY.to_owned(),
            "-----BEGIN PRIVATE KEY-----\nMC4CAQ".to_owned(),
        ];
        for secret in secrets {
            let said = shown(Path::new(&secret));
            assert!(said.starts_with("(a seed or key of "), "{secret} is shown");
            assert!(!said.contains(&SEED[2..10]) && !said.contains(&KEY[..8]));
        }
        let said = shown(Path::new(&format!("\"{SEED}\" ")));
        assert!(said.contains(" of 58 characters"), "{said}");
    }

    #[test]
    fn names_of_files_are_shown() {
        for name in [
            "/etc/orchestrator/beat.nk",
            "worker.nk",
            "SUPPORT.nk",
            "/run/credentials/orchestrator-worker@default.service/nats-nkey",
            "/etc/ssl/private/nats-client-of-the-machine-in-the-cellar-7.pem",
            "sub/keys/signing.key",
            "seed",
            "",
        ] {
            assert_eq!(shown(Path::new(name)), name);
        }
    }
}
