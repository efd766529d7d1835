//! The trusted keys, and whether a message was signed by one of them.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use ed25519_dalek::Signature;
use thiserror::Error;

use super::{KeyError, KeyId, PublicKey, SCHEME, SIGNATURE_HEADER, SIGNED_RUN, signed_bytes};
use crate::run::RunMessage;

/// How long after it may start a signed run is good for a first start. No longer than records of runs are kept:
/// as long as it is good, its record tells whether it has run.
pub const SIGNED_FOR: Duration = Duration::from_secs(7 * 86_400);

/// The keys whose signatures are taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyring(BTreeMap<KeyId, PublicKey>);

/// Which line of a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {error}")]
pub struct KeyringError {
    /// Counted from 1.
    pub line: usize,
    /// Why.
    pub error: KeyError,
}

/// Why a message is not taken for one of a trusted key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It has no signature.
    #[error("the message is not signed: it has no header {SIGNATURE_HEADER}")]
    Unsigned,
    /// What it has is none.
    #[error("the header {SIGNATURE_HEADER} is not understood: it is `{SCHEME} KEY-ID BASE64`")]
    Unreadable,
    /// Signed by somebody else.
    #[error("the message is signed by the key {0}, which is not trusted")]
    Untrusted(KeyId),
    /// Not what was signed, or not where.
    #[error(
        "its signature by the key {0} does not fit: the message was altered, or signed for another subject than {1}"
    )]
    Altered(KeyId, String),
    /// Signed too long ago for a first start.
    #[error("its signature was good until {}: it is not known any more whether it has run", .0.format("%FT%TZ"))]
    Outdated(DateTime<Utc>),
    /// Another message with the same run was executed.
    #[error("it is a copy: its run was executed by another message")]
    Replayed,
    /// Somebody removed the record of its run.
    #[error("the record of its run was removed: it is not known any more whether it has run")]
    Erased,
}

impl Refusal {
    /// Its name, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Unreadable => "unreadable",
            Self::Untrusted(_) => "untrusted",
            Self::Altered(..) => "altered",
            Self::Outdated(_) => "outdated",
            Self::Replayed | Self::Erased => "replayed",
        }
    }
}

impl Keyring {
    /// Reads a key a line; what follows a key on its line, empty lines and those with a `#` in front are for people.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        let mut ring = Self::default();
        for (line, text) in (1..).zip(text.lines()) {
            let word = text.split_whitespace().next();
            let Some(word) = word.filter(|word| !word.starts_with('#')) else {
                continue;
            };
            let key = word.parse().map_err(|error| KeyringError { line, error })?;
            ring.add(key);
        }
        Ok(ring)
    }

    /// Trusts one more.
    pub fn add(&mut self, key: PublicKey) {
        self.0.insert(key.id().clone(), key);
    }

    /// Trusts those of another one, too.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether it trusts nobody.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its keys, by id.
    pub fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.values()
    }

    /// Whether `payload`, as it came on `subject`, bears the signature of a trusted key. Says nothing
    /// about its age: see [`good_until`].
    pub fn verify(
        &self,
        subject: &str,
        header: Option<&str>,
        payload: &[u8],
    ) -> Result<&KeyId, Refusal> {
        self.verify_as(SIGNED_RUN, subject, header, payload)
    }

    pub(super) fn verify_as(
        &self,
        kind: &str,
        subject: &str,
        header: Option<&str>,
        payload: &[u8],
    ) -> Result<&KeyId, Refusal> {
        let header = header.ok_or(Refusal::Unsigned)?;
        let (id, signature) = read(header).ok_or(Refusal::Unreadable)?;
        let Some(trusted) = self.0.get(&id) else {
            return Err(Refusal::Untrusted(id));
        };
        let bytes = signed_bytes(kind, trusted.id(), subject, payload);
        match trusted.key.verify_strict(&bytes, &signature) {
            Ok(()) => Ok(trusted.id()),
            Err(_) => Err(Refusal::Altered(id, subject.to_owned())),
        }
    }
}

/// Until when a signed message is good for a first start. It counts from when it was made or, if that is later, from when it may
/// start: a tick that is caught up is made late, and a run that was asked for later waits as long as it has to.
pub fn good_until(message: &RunMessage) -> DateTime<Utc> {
    let from = message.not_before.unwrap_or(message.published_at);
    let from = from.max(message.published_at);
    let span = chrono::Duration::from_std(SIGNED_FOR).unwrap_or_default();
    from.checked_add_signed(span).unwrap_or(from)
}

fn read(header: &str) -> Option<(KeyId, Signature)> {
    let mut words = header.split(' ');
    let (scheme, id, signature) = (words.next()?, words.next()?, words.next()?);
    if scheme != SCHEME || words.next().is_some() {
        return None;
    }
    let bytes = STANDARD.decode(signature).ok()?;
    Some((KeyId::parse(id)?, Signature::from_slice(&bytes).ok()?))
}

#[cfg(test)]
mod tests {
    use super::{super::Signer, *};
    use crate::job::{Execute, RunSpec};

    const SUBJECT: &str = "orch.jobs.high.crawl.slot";

    fn ring(signers: &[&Signer]) -> Keyring {
        let mut ring = Keyring::default();
        for signer in signers {
            ring.add(signer.public().clone());
        }
        ring
    }

    #[test]
    fn what_was_signed_is_taken_and_nothing_else() {
        let signer = Signer::from_seed(&[7; 32]);
        let other = Signer::from_seed(&[8; 32]);
        let ring = ring(&[&signer, &other]);
        let header = signer.sign(SUBJECT, b"payload");
        let verify = |subject: &str, header: &str, payload: &[u8]| {
            ring.verify(subject, Some(header), payload).cloned()
        };
        assert_eq!(
            verify(SUBJECT, &header, b"payload").as_ref(),
            Ok(signer.public().id())
        );
        let altered = Err("altered");
        let rule = |found: Result<KeyId, Refusal>| found.map(|_| ()).map_err(|why| why.rule());
        assert_eq!(rule(verify(SUBJECT, &header, b"payloae")), altered);
        assert_eq!(rule(verify(SUBJECT, &header, b"payload ")), altered);
        assert_eq!(
            rule(verify("orch.jobs.low.crawl.slot", &header, b"payload")),
            altered
        );
        // Under the name of another trusted key.
        let renamed = header.replace(
            &signer.public().id().to_string(),
            &other.public().id().to_string(),
        );
        assert_eq!(rule(verify(SUBJECT, &renamed, b"payload")), altered);
        let foreign = Signer::from_seed(&[9; 32]).sign(SUBJECT, b"payload");
        assert_eq!(
            rule(verify(SUBJECT, &foreign, b"payload")),
            Err("untrusted")
        );
        for unreadable in [
            "",
            "v1",
            "v2 a b",
            &header[..40],
            &format!("{header} more"),
            &header.replace(' ', "  "),
        ] {
            assert_eq!(
                rule(verify(SUBJECT, unreadable, b"payload")),
                Err("unreadable"),
                "{unreadable}"
            );
        }
        assert_eq!(
            ring.verify(SUBJECT, None, b"payload"),
            Err(Refusal::Unsigned)
        );
    }

    #[test]
    fn every_bit_counts() {
        let signer = Signer::from_seed(&[7; 32]);
        let ring = ring(&[&signer]);
        let payload = b"{\"version\":1}".to_vec();
        let header = signer.sign(SUBJECT, &payload);
        for at in 0..payload.len() * 8 {
            let mut altered = payload.clone();
            altered[at / 8] ^= 1 << (at % 8);
            assert!(
                ring.verify(SUBJECT, Some(&header), &altered).is_err(),
                "bit {at}"
            );
        }
        let (front, signature) = header.rsplit_once(' ').unwrap();
        let signature = STANDARD.decode(signature).unwrap();
        for at in 0..signature.len() * 8 {
            let mut altered = signature.clone();
            altered[at / 8] ^= 1 << (at % 8);
            let header = format!("{front} {}", STANDARD.encode(altered));
            assert!(
                ring.verify(SUBJECT, Some(&header), &payload).is_err(),
                "bit {at}"
            );
        }
    }

    #[test]
    fn files_of_keys_have_remarks_and_say_which_line_is_wrong() {
        let (a, b) = (Signer::from_seed(&[1; 32]), Signer::from_seed(&[2; 32]));
        let text = format!(
            "# beats\n{} beat, since May\n\n  {}\n",
            a.public(),
            b.public()
        );
        assert_eq!(Keyring::parse(&text).unwrap(), ring(&[&a, &b]));
        let error = Keyring::parse(&format!("{}\nhello\n", a.public())).unwrap_err();
        assert_eq!((error.line, error.error), (2, KeyError::Foreign));
        assert!(Keyring::parse("# none\n").unwrap().is_empty());
    }

    #[test]
    fn a_run_is_good_from_when_it_may_start() {
        let spec = RunSpec::new(Execute::Command(vec!["true".parse().unwrap()]));
        let run_id = "crawl@20261101T000000Z".parse().unwrap();
        let at = "2026-11-01T00:00:00Z".parse().unwrap();
        let mut message = RunMessage::new(run_id, "high".parse().unwrap(), at, spec);
        message.published_at = "2026-11-20T00:00:00Z".parse().unwrap();
        let until = |message: &RunMessage| good_until(message).to_rfc3339();
        // A tick that was caught up weeks later.
        assert_eq!(until(&message), "2026-11-27T00:00:00+00:00");
        message.not_before = Some("2026-11-01T00:10:00Z".parse().unwrap());
        assert_eq!(until(&message), "2026-11-27T00:00:00+00:00");
        message.not_before = Some("2027-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(until(&message), "2027-01-08T00:00:00+00:00");
        message.not_before = Some(DateTime::<Utc>::MAX_UTC);
        assert_eq!(good_until(&message), DateTime::<Utc>::MAX_UTC);
    }
}
