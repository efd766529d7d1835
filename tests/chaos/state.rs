//! The store of `up` is damaged at random between its lives: that is told, what is bad is set aside, and it goes on.

use std::{collections::BTreeSet, fs, path::Path};

use crate::{
    seed,
    support::{
        Installation, checker,
        random::{Random, number},
        wait_for,
    },
};

const JOBS: &str = r#"
[job.tick]
every = "1s"
overlap = "allow"
shell = "echo $ORCHESTRATOR_RUN_ID >> ticks"
working_dir = ".."

[job.paused]
every = "1s"
shell = "echo no >> paused"
working_dir = ".."
"#;

/// Returns what was done, and whether nothing is left: else the damage may be where nothing is stored.
fn damage(database: &Path, random: &mut Random) -> (&'static str, bool) {
    let mut bytes = fs::read(database).unwrap();
    let size = bytes.len() as u64;
    let done = match random.below(5) {
        0 => {
            bytes.truncate(random.below(size / 2) as usize);
            ("truncated", false)
        }
        1 => {
            for _ in 0..1 + random.below(64) {
                bytes[random.below(size) as usize] ^= 1 << random.below(8);
            }
            ("flipped bits", false)
        }
        2 => {
            bytes.fill(0);
            ("zeros", true)
        }
        3 => {
            bytes.clear();
            ("emptied", true)
        }
        _ => {
            fs::remove_file(database).unwrap();
            return ("deleted", true);
        }
    };
    fs::write(database, bytes).unwrap();
    done
}

#[test]
fn damage_is_told_and_set_aside_and_up_goes_on() {
    let mut random = seed();
    let here = Installation::new();
    here.schedule("a.toml", JOBS);
    for round in 0..number("CHAOS_ROUNDS", 5) {
        let up = here.up(&["--snapshot-every", "100ms", "-v"]);
        if round == 0 {
            wait_for("the jobs", || here.try_json(&["jobs"])?.get(1).cloned());
            assert_eq!(here.run(&["pause", "paused", "--reason", "chaos"]).code, 0);
        }
        let before = here.lines("ticks").len();
        wait_for("runs", || {
            (here.lines("ticks").len() > before + 1).then_some(())
        });
        // What a snapshot remembers, too.
        let written = || up.log().matches("snapshot written").count();
        let before = written();
        wait_for("two snapshots", || (written() > before + 1).then_some(()));
        let (silent, before) = (here.lines("paused").len(), here.lines("ticks").len());
        wait_for("more runs", || {
            (here.lines("ticks").len() > before + 1).then_some(())
        });
        let paused = here.lines("paused").len();
        assert_eq!(paused, silent, "round {round}: the pause was forgotten");
        // Each tick once, in this life.
        let known = checker::fired(&here, "tick");
        up.kill9();
        let (what, is_emptied) = damage(&here.path("data/db"), &mut random);
        println!("round {round}: {what}");
        let told = |log: &str| log.matches("the store is damaged").count();
        let before = told(&here.read("up.log"));
        let up = here.up(&["--snapshot-every", "100ms", "-v"]);
        let is_told = told(&here.read("up.log")) > before;
        assert!(
            is_told || !is_emptied,
            "round {round}: {what}: {}",
            up.log()
        );
        // What is not told has cost nothing.
        let still: BTreeSet<_> = checker::fired(&here, "tick").into_iter().collect();
        assert!(
            is_told || known.iter().all(|tick| still.contains(tick)),
            "round {round}: {what} was not noticed"
        );
        assert!(up.stop().success());
    }
}
