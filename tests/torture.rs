//! The store under torture: its writer killed at full speed and while it opens, and its file system cut off from
//! power. What was confirmed is there afterwards, and the store opens every time.
//!
//! `TORTURE_ROUNDS` makes it longer, `TORTURE_SEED` changes the moments.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod torture {
    mod kills;
    #[path = "../support/mounts.rs"]
    mod mounts;
    mod power;
    #[path = "../support/random.rs"]
    mod random;
    mod writer;
}
