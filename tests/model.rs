//! Promise 1 as a model: years of virtual time with crashes, restarts, clock steps, edits, pauses,
//! blackouts, live runs and news of them. Whatever happens, every tick of every job gets exactly one
//! verdict; a walk over the minutes says which ticks there are.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "model/oracle.rs"]
mod oracle;
#[path = "model/world.rs"]
mod world;

use proptest::prelude::*;

use world::{Action, Crash, Edit, World};

fn action() -> impl Strategy<Value = Action> {
    let job = || 0_usize..oracle::JOBS;
    prop_oneof![
        12 => (1_i64..7_200).prop_map(Action::Pass),
        4 => (7_200_i64..200_000).prop_map(Action::Pass),
        1 => (200_000_i64..3_000_000).prop_map(Action::Pass),
        2 => (1_i64..10_000).prop_map(Action::StepBack),
        2 => prop_oneof![Just(Crash::AfterPublish), Just(Crash::AfterStates)].prop_map(Action::Crash),
        2 => (1_i64..50_000).prop_map(Action::Down),
        3 => (job(), edit()).prop_map(|(job, edit)| Action::Reload(job, edit)),
        1 => (job(), edit(), 1_i64..50_000).prop_map(|(job, edit, down)| Action::EditWhileDown(job, edit, down)),
        3 => (job(), prop::option::of(1_i64..100_000)).prop_map(|(job, length)| Action::Pause(job, length)),
        3 => (job(), any::<bool>()).prop_map(|(job, catch_up)| Action::Resume(job, catch_up)),
        6 => (job(), any::<bool>()).prop_map(|(job, well)| Action::End(job, well)),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        Just(Edit::Trigger),
        Just(Edit::Else),
        Just(Edit::Enabled),
        Just(Edit::Presence),
    ]
}

/// More by `MODEL_CASES`, for a longer search.
fn cases() -> u32 {
    let asked = std::env::var("MODEL_CASES").ok();
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(32)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_tick_has_exactly_one_verdict(actions in prop::collection::vec(action(), 1..250)) {
        let mut world = World::new();
        for action in &actions {
            world.act(action);
        }
        world.settle();
        world.check_counters();
    }
}
