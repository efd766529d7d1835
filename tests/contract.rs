//! One contract for every broker: `contract/` holds the tests, each written once against
//! [`contract::harness::Backend`], and this file instantiates them for every backend.
//!
//! To add a backend: implement `Backend` in `contract/NAME.rs` and add a `for_backend!` line.
//! To add a test: write it in one of the topic files and name it in `contract/list.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail like tests"
)]

mod contract {
    #[macro_use]
    mod list;
    mod harness;

    mod delivery;
    mod leases;
    mod logs;
    mod publish;
    mod pulling;
    mod stored;
    mod values;
    mod watching;

    mod embedded;
    mod embedded_kill;
    mod nats;
    #[path = "../support/nats.rs"]
    mod server;
    mod socket;

    for_backend!(on_embedded, super::embedded::Embedded);
    for_backend!(on_nats, super::nats::Nats);
    for_backend!(on_socket, super::socket::Socket);
}
