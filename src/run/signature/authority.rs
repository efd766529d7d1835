//! What a publisher knows of keys: it signs with its own, and tells the messages of others by theirs.

use super::{KeyId, Keyring, Refusal, SIGNED_RUN, Signer};

/// A private key, and the public ones of everybody who may publish.
#[derive(Debug, Clone)]
pub struct Authority {
    signer: Signer,
    keys: Keyring,
    knows_all: bool,
}

/// Whose a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Of somebody who may publish.
    Genuine,
    /// Of nobody who may.
    Forged(Refusal),
    /// Signed by a key that is not known here; perhaps it is known elsewhere.
    Unknown(KeyId),
}

impl Authority {
    /// Signs with `signer`. Without `trusted` the keys of others are not known.
    pub fn new(signer: Signer, trusted: Option<Keyring>) -> Self {
        let knows_all = trusted.is_some();
        let mut keys = trusted.unwrap_or_default();
        keys.add(signer.public().clone());
        Self {
            signer,
            keys,
            knows_all,
        }
    }

    /// Its own key.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Whose a message on `subject` is, however old it is.
    pub fn judge(&self, subject: &str, header: Option<&str>, payload: &[u8]) -> Standing {
        self.judge_as(SIGNED_RUN, subject, header, payload)
    }

    pub(super) fn judge_as(
        &self,
        kind: &str,
        subject: &str,
        header: Option<&str>,
        payload: &[u8],
    ) -> Standing {
        match self.keys.verify_as(kind, subject, header, payload) {
            Ok(_) => Standing::Genuine,
            Err(Refusal::Untrusted(id)) if !self.knows_all => Standing::Unknown(id),
            Err(refusal) => Standing::Forged(refusal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_know_the_others_does_not_call_them_forgers() {
        let (own, other) = (Signer::from_seed(&[1; 32]), Signer::from_seed(&[2; 32]));
        let by_other = other.sign("s", b"p");
        let alone = Authority::new(own.clone(), None);
        assert_eq!(
            alone.judge("s", Some(&own.sign("s", b"p")), b"p"),
            Standing::Genuine
        );
        let unknown = Standing::Unknown(other.public().id().clone());
        assert_eq!(alone.judge("s", Some(&by_other), b"p"), unknown);
        assert_eq!(
            alone.judge("s", None, b"p"),
            Standing::Forged(Refusal::Unsigned)
        );
        let mut ring = Keyring::default();
        assert!(matches!(
            Authority::new(own.clone(), Some(ring.clone())).judge("s", Some(&by_other), b"p"),
            Standing::Forged(Refusal::Untrusted(_))
        ));
        ring.add(other.public().clone());
        let both = Authority::new(own, Some(ring));
        assert_eq!(both.judge("s", Some(&by_other), b"p"), Standing::Genuine);
    }
}
