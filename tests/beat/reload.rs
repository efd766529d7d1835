//! Edits of the schedules while ticks fire.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
};

use orchestrator::{
    broker,
    plan::{JobState, RELOAD_KEY, ReloadStatus, Watermark},
    run::RunMessage,
};

use super::*;

const EDITS: usize = 1_000;
/// Jobs that every edit leaves alone, and that come due every second.
const STEADY: usize = 20;
/// Jobs that are only there to be leaked.
const BALLAST: usize = 300;

/// The files after edit `n`: what it changes is another job.
fn edited(n: usize) -> String {
    let mut text = format!(
        "[job.edited]\nevery = \"{}s\"\nshell = \"true\"\n",
        2 + n % 50
    );
    for job in 0..STEADY {
        let steady = "every = \"1s\"\ncatch_up = \"all\"\noverlap = \"allow\"\nshell = \"true\"";
        writeln!(text, "[job.steady-{job}]\n{steady}").unwrap();
    }
    for job in 0..BALLAST {
        let script = "true; ".repeat(100);
        writeln!(text, "[job.ballast-{job}]\nshell = \"{script}\"").unwrap();
    }
    if n % 2 == 1 {
        text.push_str(["[job.broken\n", "[job.x]\nevry = \"1s\"\n", "half = \"a"][n % 3]);
    }
    text
}

fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Edits the file and waits until beat has taken it over, or refused it.
async fn edit(world: &World, beating: &Beating, n: usize) {
    let before = clock::now();
    fs::write(world.file(), edited(n)).unwrap();
    beating
        .reload
        .send(ReloadCause::FilesChanged)
        .await
        .unwrap();
    let taken_over = async {
        loop {
            let status: ReloadStatus = world.get(RELOAD_KEY).await;
            if status.at >= before {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let status = tokio::time::timeout(PATIENCE, taken_over).await;
    let status = status.expect("beat should read the files");
    assert_eq!(
        status.errors.is_empty(),
        n.is_multiple_of(2),
        "{n}: {:?}",
        status.errors
    );
    assert_eq!(status.jobs, 1 + STEADY + BALLAST);
}

#[tokio::test]
async fn a_thousand_edits_cost_no_tick_and_leak_nothing() {
    let world = World::new();
    let set = world.jobs(&edited(0));
    let beating = world.beat("b", set).await;
    let mut settled = None;
    for n in 1..=EDITS {
        edit(&world, &beating, n).await;
        if n == EDITS / 5 {
            let tasks = tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks();
            settled = Some((status("VmRSS:"), open_files(), tasks));
        }
    }
    let (memory, files, tasks) = settled.unwrap();
    // A leak of what was read would be 250 KiB for each of 800 edits; the runs, which are more on a
    // slow machine, take some.
    let grown = status("VmRSS:").saturating_sub(memory);
    assert!(grown < 120 * 1024, "grown by {grown} KiB");
    // Other tests of this process have some, too.
    let more = open_files().saturating_sub(files);
    assert!(more < 100, "{more} more open files");
    assert_eq!(
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks(),
        tasks,
        "tasks"
    );
    let last: Watermark = world.get("watermark").await;
    world
        .until_committed(last.at + chrono::Duration::seconds(2))
        .await;
    beating.stop.cancel();
    let mut fired: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    let mut from = 0;
    loop {
        let stored = world.broker.pending(from, 500).await.unwrap();
        let Some(newest) = stored.last() else { break };
        from = newest.sequence + 1;
        for run in &stored {
            let message = RunMessage::decode(&run.payload).unwrap();
            let ticks = fired.entry(message.run_id.job().to_string()).or_default();
            let tick = message.scheduled_for.timestamp();
            assert!(ticks.insert(tick), "{} was published twice", message.run_id);
        }
    }
    for job in 0..STEADY {
        let name = format!("steady-{job}");
        let ticks = &fired[&name];
        let (first, last) = (*ticks.first().unwrap(), *ticks.last().unwrap());
        assert!(last - first >= 2, "{name}: {ticks:?}");
        assert_eq!(
            ticks.len() as i64,
            last - first + 1,
            "{name}: a tick is lost: {ticks:?}"
        );
        let state: JobState = world.get(&format!("job.{name}")).await;
        assert_eq!(state.ledger, Default::default(), "{name}");
    }
    let known = broker::list(world.broker.as_ref(), Bucket::State, "def.").await;
    assert_eq!(known.unwrap().len(), 1 + STEADY + BALLAST);
}
