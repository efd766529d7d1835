//! What only the NATS broker can get wrong: messages under way when nobody wants them any more.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod nats {
    mod harness;
    mod pulling;
    #[path = "../support/nats.rs"]
    mod server;
}
