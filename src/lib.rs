//! A scheduled job orchestrator: *beat* turns the ticks of `schedules/*.toml` into runs, a broker
//! carries them by queue, *workers* execute them and record the outcome.
//!
//! Dependencies point one way: `cli → { beat, worker, ops } → { broker, store, exec, schedules } →
//! { job, plan, run }`. `docs/architecture.md` is the map; `tests/architecture.rs` holds it.

#[macro_use]
mod point;

pub mod beat;
pub mod bench;
pub mod broker;
mod chance;
pub mod cli;
pub mod clock;
pub mod exec;
pub mod health;
pub mod job;
pub mod manager;
pub mod ops;
pub mod plan;
pub mod run;
pub mod schedules;
pub mod store;
pub mod worker;
