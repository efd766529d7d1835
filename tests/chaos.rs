//! The fault matrix: what breaks, and what holds all the same. One scenario a row; each ends with checks that read
//! only public output (`runs`, `show`, `jobs`, `queues`, `dead`, and the files that jobs wrote).
//!
//! | fault | scenario |
//! | --- | --- |
//! | beat killed between compute, publish, acknowledgement and persist | `beat_killed`; at each of its points: `beat_stopped` |
//! | two or three beats, the lease switched off | `beats::all_at_the_same_time` |
//! | beat stopped past its lease, continued | `beats::stopped_past_the_lease_and_continued`, `beats::with_a_leader` |
//! | worker killed | `workers::a_killed_worker_costs_one_lease_and_leaves_nothing_behind` |
//! | worker frozen, continued | `workers::a_frozen_worker_that_wakes_up_records_nothing` |
//! | worker cut off while its job runs | `cut_off` |
//! | NATS killed and restarted | `nats_killed`; together with all other faults of workers: `everything` |
//! | NATS's disk full; its data wiped; a backup put back | `disk_full`; `wiped`; `set_back` |
//! | the clock an hour forward and back; daylight saving | `clock` |
//! | state truncated, flipped, deleted | `state`; each kind by itself, and a full disk: `tests/e2e/damage.rs` |
//! | huge output | `output` |
//! | daemonising, TERM-immune job | `trees`; one that eats memory: `tests/exec/cgroups.rs`, run by `tests/uml` |
//! | bad TOML at reload | `half_written` |
//! | poison, oversize, malformed, forged, replayed message | `messages` |
//! | very many due at once; a slow broker | `burst` |
//!
//! The order of events is the same each time, as far as the machine lets it; `CHAOS_SEED` gives another one.
//! `CHAOS_ROUNDS` makes scenarios longer, and so do the variables that the scenarios name. `just chaos` goes on for hours.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "support/proxy.rs"]
mod proxy;
mod support;

#[path = "chaos/beat_killed.rs"]
mod beat_killed;
#[path = "chaos/beat_stopped.rs"]
mod beat_stopped;
#[path = "chaos/beats.rs"]
mod beats;
#[path = "chaos/burst.rs"]
mod burst;
#[path = "chaos/clock.rs"]
mod clock;
#[path = "chaos/cut_off.rs"]
mod cut_off;
#[path = "chaos/disk_full.rs"]
mod disk_full;
#[path = "chaos/disk_hangs.rs"]
mod disk_hangs;
#[path = "chaos/everything.rs"]
mod everything;
#[path = "chaos/half_written.rs"]
mod half_written;
#[path = "chaos/messages.rs"]
mod messages;
#[path = "chaos/nats_killed.rs"]
mod nats_killed;
#[path = "chaos/outlived.rs"]
mod outlived;
#[path = "chaos/output.rs"]
mod output;
#[path = "chaos/set_back.rs"]
mod set_back;
#[path = "chaos/state.rs"]
mod state;
#[path = "chaos/trees.rs"]
mod trees;
#[path = "chaos/wiped.rs"]
mod wiped;
#[path = "chaos/workers.rs"]
mod workers;

use support::random::{Random, number};

/// Printed, so that a scenario that failed can be played again.
fn seed() -> Random {
    let seed = number("CHAOS_SEED", 14_655);
    println!("CHAOS_SEED={seed}");
    Random(seed)
}
