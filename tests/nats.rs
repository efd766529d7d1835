//! What only the NATS broker can get wrong: messages under way when nobody wants them any more, a
//! server that is away, refuses or has lost its data, and workers that want different leases.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod nats {
    mod bursts;
    mod cluster;
    mod faults;
    mod harness;
    mod leases;
    mod outage;
    #[path = "../support/proxy.rs"]
    mod proxy;
    mod pulling;
    #[path = "../support/nats.rs"]
    mod server;
    mod settings;
    mod signed;
    mod working;
}
