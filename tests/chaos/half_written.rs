//! A schedule file is written piece by piece, as some editors and copies do: beat takes all of it or nothing.

use std::{fs, time::Duration};

use crate::{
    seed,
    support::{Installation, checker, random::number, wait_for},
};

const TICK: &str = r#"
[job.tick]
every = "1s"
overlap = "allow"
catch_up = "all"
shell = "echo $ORCHESTRATOR_RUN_ID >> ticks"
working_dir = ".."
"#;

/// The last line is needed: without it there is nothing to run.
fn other(round: u64) -> String {
    format!(
        "[job.other]\ndescription = \"of round {round}\"\nevery = \"1h\"\ntags = [\"a\", \"b\"]\nshell = \"true\"\n"
    )
}

fn description(here: &Installation) -> Option<String> {
    let jobs = here.try_json(&["jobs"])?;
    let other = jobs.as_array()?.iter().find(|job| job["name"] == "other")?;
    Some(other["description"].as_str()?.to_owned())
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "faults have their time, nothing is waited for"
)]
fn all_of_it_or_nothing() {
    let mut random = seed();
    let here = Installation::new();
    here.schedule("a.toml", TICK);
    here.schedule("b.toml", &other(0));
    let up = here.up(&[]);
    wait_for("the first set", || description(&here));
    let file = here.path("schedules/b.toml");
    let rounds = number("CHAOS_ROUNDS", 12);
    for round in 1..=rounds {
        let whole = other(round);
        let half = 1 + random.below(whole.len() as u64 - 2) as usize;
        fs::write(&file, &whole[..half]).unwrap();
        std::thread::sleep(Duration::from_millis(random.below(700)));
        // What is in force is whole: the set of this round or of one before.
        let found = description(&here).expect("a whole job");
        assert!(found.starts_with("of round "), "{found}");
        fs::write(&file, &whole).unwrap();
        if random.below(2) == 0 {
            wait_for("the whole file", || {
                (description(&here)? == format!("of round {round}")).then_some(())
            });
        }
    }
    wait_for("the last file", || {
        (description(&here)? == format!("of round {rounds}")).then_some(())
    });
    wait_for("no complaint any more", || {
        here.run(&["jobs"]).stderr.is_empty().then_some(())
    });
    let before = here.lines("ticks").len();
    wait_for("more ticks", || {
        (here.lines("ticks").len() > before + 1).then_some(())
    });
    checker::one_verdict_each(&here, "tick");
    assert!(up.stop().success());
    checker::every_second_once(&here.lines("ticks"));
}
