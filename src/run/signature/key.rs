//! Keys, their texts and their ids.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{SCHEME, SIGNED_RUN, signed_bytes};
use crate::run::RunId;

/// In front of a public key.
const PUBLIC: &str = "ed25519:";
/// In front of a private key.
const PRIVATE: &str = "ed25519-private:";
/// How many bytes of a public key's digest name it.
const ID_BYTES: usize = 8;

/// Names a key: the first 16 hexadecimal digits of the SHA-256 of the public key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(String);

/// A key with which signatures are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    id: KeyId,
    pub(super) key: VerifyingKey,
}

/// A private key: it signs.
#[derive(Clone)]
pub struct Signer {
    public: PublicKey,
    key: SigningKey,
}

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Something else.
    #[error(
        "not a key: it begins with `{PUBLIC}` or `{PRIVATE}`, as `orchestrator keys new` writes it"
    )]
    Foreign,
    /// Cut off or mistyped.
    #[error("not a key: behind `{0}` come 32 bytes in base64")]
    Damaged(&'static str),
    /// Anybody could sign for it.
    #[error("a key for which anybody can sign; make another with `orchestrator keys new`")]
    Weak,
    /// A public key cannot sign.
    #[error("this is a public key: to sign, the private one is needed")]
    OnlyPublic,
    /// A private key must not lie with those who verify.
    #[error(
        "this is a private key, which does not belong here: put what `orchestrator keys show` prints of it"
    )]
    NotPublic,
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl KeyId {
    /// Reads an id as a message names it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let fits = text.len() == 2 * ID_BYTES && text.chars().all(is_hex);
        fits.then(|| Self(text.to_owned()))
    }

    fn of(key: &VerifyingKey) -> Self {
        Self(hex(&Sha256::digest(key.as_bytes())[..ID_BYTES]))
    }
}

impl PublicKey {
    /// What names it.
    pub fn id(&self) -> &KeyId {
        &self.id
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", STANDARD.encode(self.key.as_bytes()))
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.starts_with(PRIVATE) {
            return Err(KeyError::NotPublic);
        }
        let bytes = bytes_behind(PUBLIC, text)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Damaged(PUBLIC))?;
        if key.is_weak() {
            return Err(KeyError::Weak);
        }
        Ok(Self {
            id: KeyId::of(&key),
            key,
        })
    }
}

impl Signer {
    /// The key that follows from 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let public = key.verifying_key();
        Self {
            public: PublicKey {
                id: KeyId::of(&public),
                key: public,
            },
            key,
        }
    }

    /// With which its signatures are verified.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The private key as text, for its file.
    pub fn secret(&self) -> String {
        format!("{PRIVATE}{}", STANDARD.encode(self.key.to_bytes()))
    }

    /// The value of the header for a message that goes to `subject`.
    pub fn sign(&self, subject: &str, payload: &[u8]) -> String {
        self.sign_as(SIGNED_RUN, subject, payload)
    }

    pub(super) fn sign_as(&self, kind: &str, subject: &str, payload: &[u8]) -> String {
        let id = self.public.id();
        let signature = self.key.sign(&signed_bytes(kind, id, subject, payload));
        format!("{SCHEME} {id} {}", STANDARD.encode(signature.to_bytes()))
    }

    /// The message id of a run: the same each time, but to be known in advance only by who has the key. So
    /// nobody else can use it up.
    pub fn message_id(&self, run_id: &RunId) -> String {
        // A key of any length will do.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.key.as_bytes()) else {
            return run_id.to_string();
        };
        mac.update(b"orchestrator-message-id\n");
        mac.update(run_id.to_string().as_bytes());
        let tag = mac.finalize().into_bytes();
        format!("{run_id}.{}", hex(&tag[..ID_BYTES]))
    }
}

impl FromStr for Signer {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.starts_with(PUBLIC) {
            return Err(KeyError::OnlyPublic);
        }
        Ok(Self::from_seed(&bytes_behind(PRIVATE, text)?))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("id", &self.public.id)
            .finish_non_exhaustive()
    }
}

fn bytes_behind(prefix: &'static str, text: &str) -> Result<[u8; 32], KeyError> {
    let rest = text.strip_prefix(prefix).ok_or(KeyError::Foreign)?;
    let bytes = STANDARD.decode(rest.trim_end()).ok();
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(KeyError::Damaged(prefix))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_texts() {
        let signer = Signer::from_seed(&[7; 32]);
        let read: Signer = signer.secret().parse().unwrap();
        assert_eq!(read.public(), signer.public());
        let public: PublicKey = signer.public().to_string().parse().unwrap();
        assert_eq!(&public, signer.public());
        assert_eq!(KeyId::parse(&public.id().to_string()), Some(public.id));
        assert!(!format!("{signer:?}").contains(&signer.secret()[16..]));
    }

    #[test]
    fn other_texts_are_refused() {
        let signer = Signer::from_seed(&[7; 32]);
        let public = |text: &str| text.parse::<PublicKey>().unwrap_err();
        assert_eq!(public("hello"), KeyError::Foreign);
        assert_eq!(public("ed25519:hello"), KeyError::Damaged(PUBLIC));
        assert_eq!(public(&signer.secret()), KeyError::NotPublic);
        // The neutral element: every signature of a certain form fits.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let weak = format!("ed25519:{}", STANDARD.encode(neutral));
        assert_eq!(public(&weak), KeyError::Weak);
        let private = |text: &str| text.parse::<Signer>().unwrap_err();
        assert_eq!(private(&signer.public().to_string()), KeyError::OnlyPublic);
        assert_eq!(private("ed25519-private:aGk="), KeyError::Damaged(PRIVATE));
        for id in [
            "",
            "0123456789abcde",
            "0123456789ABCDEF",
            "0123456789abcdeg",
        ] {
            assert_eq!(KeyId::parse(id), None, "{id}");
        }
    }

    #[test]
    fn message_ids_repeat_for_one_key_alone() {
        let run: RunId = "crawl@20261123T023000Z".parse().unwrap();
        let (a, b) = (Signer::from_seed(&[1; 32]), Signer::from_seed(&[2; 32]));
        assert_eq!(a.message_id(&run), a.message_id(&run));
        assert_ne!(a.message_id(&run), b.message_id(&run));
        assert!(a.message_id(&run).starts_with("crawl@20261123T023000Z."));
    }
}
