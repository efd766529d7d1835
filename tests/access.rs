//! Who gets into NATS, how, and what each role may do there; real servers, the real program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "support/mod.rs"]
mod support;

#[path = "access/answers.rs"]
mod answers;
#[path = "access/authority.rs"]
mod authority;
#[path = "access/forbidden.rs"]
mod forbidden;
#[path = "access/hostile.rs"]
mod hostile;
#[path = "access/installation.rs"]
mod installation;
#[path = "access/places.rs"]
mod places;
#[path = "access/refused.rs"]
mod refused;
#[path = "access/roles.rs"]
mod roles;
#[path = "access/ways_in.rs"]
mod ways_in;
