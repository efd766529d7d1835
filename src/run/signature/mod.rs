//! Signatures of runs and of what runs are made from: who may ask for an execution, whoever can write to the broker.
//!
//! An Ed25519 signature over the key id, the subject and the message as it is, byte for byte; `docs/protocol.md`
//! specifies it with an example. [`Signer`] makes it, [`Keyring`] says whether it is one of a trusted key,
//! and [`Authority`] is what publishers know: their own key and those of others.

mod authority;
mod key;
mod keyring;
mod value;

pub use authority::{Authority, Standing};
pub use key::{KeyError, KeyId, PublicKey, Signer};
pub use keyring::{Keyring, KeyringError, Refusal, SIGNED_FOR, good_until};

/// The header that carries a signature: `v1 KEY-ID BASE64`.
pub const SIGNATURE_HEADER: &str = "Orch-Signature";

/// The version of the signature that this build makes and takes.
const SCHEME: &str = "v1";

/// What is signed says first which kind it is of, so that none can be taken for another: messages of runs, and values.
const SIGNED_RUN: &str = "run";
const SIGNED_VALUE: &str = "value";

/// What is signed: nothing in it is ambiguous, because neither an id nor a subject has a line break.
fn signed_bytes(kind: &str, key: &KeyId, subject: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("orchestrator-{kind}-{SCHEME}\n{key}\n{subject}\n").into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}
