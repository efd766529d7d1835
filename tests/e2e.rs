//! The whole, as a user sees it: the real binary, real files, real processes, a real nats-server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod support;

#[path = "e2e/anchor.rs"]
mod anchor;
#[path = "e2e/asking.rs"]
mod asking;
#[path = "e2e/beats.rs"]
mod beats;
#[path = "e2e/bench.rs"]
mod bench;
#[path = "e2e/blackout.rs"]
mod blackout;
#[path = "e2e/commands.rs"]
mod commands;
#[path = "e2e/controlling_terminal.rs"]
mod controlling_terminal;
#[path = "e2e/crawler.rs"]
mod crawler;
#[path = "e2e/damage.rs"]
mod damage;
#[path = "e2e/dead.rs"]
mod dead;
#[path = "e2e/definitions.rs"]
mod definitions;
#[path = "e2e/doctor.rs"]
mod doctor;
#[path = "e2e/explain.rs"]
mod explain;
#[path = "e2e/faults.rs"]
mod faults;
#[path = "e2e/foreign.rs"]
mod foreign;
#[path = "e2e/full.rs"]
mod full;
#[path = "e2e/http.rs"]
mod http;
#[path = "e2e/init.rs"]
mod init;
#[path = "e2e/lease_loss.rs"]
mod lease_loss;
#[path = "e2e/letters.rs"]
mod letters;
#[path = "e2e/locks.rs"]
mod locks;
#[path = "e2e/manager.rs"]
mod manager;
#[path = "e2e/notify.rs"]
mod notify;
#[path = "e2e/overlap.rs"]
mod overlap;
#[path = "e2e/pause.rs"]
mod pause;
#[path = "e2e/pings.rs"]
mod pings;
#[path = "e2e/policy.rs"]
mod policy;
#[path = "e2e/policy_rights.rs"]
mod policy_rights;
#[path = "e2e/policy_up.rs"]
mod policy_up;
#[path = "e2e/policy_users.rs"]
mod policy_users;
#[path = "e2e/priority.rs"]
mod priority;
#[path = "e2e/reload.rs"]
mod reload;
#[path = "e2e/secrets.rs"]
mod secrets;
#[path = "e2e/signed.rs"]
mod signed;
#[path = "e2e/state.rs"]
mod state;
#[path = "e2e/state_files.rs"]
mod state_files;
#[path = "e2e/submit.rs"]
mod submit;
#[path = "e2e/syncs.rs"]
mod syncs;
#[path = "e2e/up.rs"]
mod up;
