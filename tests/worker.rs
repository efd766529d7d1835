//! The worker on the embedded broker with real processes: outcomes, draining, and a broker that
//! fails at the worst moment.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "worker/bench.rs"]
mod bench;
#[path = "worker/faults.rs"]
mod faults;
#[path = "worker/faulty.rs"]
mod faulty;
#[path = "worker/leases.rs"]
mod leases;
#[path = "worker/outcomes.rs"]
mod outcomes;
#[path = "worker/second_messages.rs"]
mod second_messages;
#[path = "worker/slots.rs"]
mod slots;
