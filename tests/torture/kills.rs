//! SIGKILL at full speed and while the store is opened, in turns.

use std::{thread::sleep, time::Duration};

use super::{
    random::{Random, number},
    writer::{Said, found, start},
};

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "a kill has its moment, nothing is waited for"
)]
fn what_was_confirmed_survives_kills() {
    let (seed, rounds) = (number("TORTURE_SEED", 1), number("TORTURE_ROUNDS", 40));
    println!("TORTURE_SEED={seed} TORTURE_ROUNDS={rounds}");
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data/store");
    let (mut said, mut cut_off) = (Said::new(), 0);
    for round in 0..rounds {
        let mut victim = start(&path);
        victim.is_opening();
        if round % 2 == 0 {
            victim.is_writing();
            victim.confirms(1 + random.below(400) as usize, &mut said);
        } else {
            // Opening takes some milliseconds.
            sleep(Duration::from_micros(random.below(12_000)));
        }
        let before = said.clone();
        victim.kill(&mut said);
        cut_off += u64::from(round % 2 == 1 && said == before);
        let found = found(&path);
        for (writer, count) in &said {
            assert!(
                found[writer] >= *count,
                "seed {seed}, round {round}: writer {writer} was told {count}, and {} is there",
                found[writer]
            );
        }
    }
    let confirmed: u64 = said.values().sum();
    println!(
        "{rounds} kills, {cut_off} of them before anything was confirmed; {confirmed} confirmed, none lost"
    );
    assert!(confirmed > rounds, "{confirmed}");
}
