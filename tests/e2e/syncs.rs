//! What durability costs: the watermark of a moment is one sync, however many ticks the moment has.

use std::process::Command;

use crate::support::{
    Installation, Service, commands::behind, mounts::skipped, nats::NatsServer, wait_for,
};

const JOBS: usize = 1_000;

/// All due at the same moments.
fn jobs() -> String {
    let job = |n| {
        format!(
            "[job.j{n}]\nevery = \"10s\"\noverlap = \"allow\"\nqueue = \"bulk\"\nshell = \"true\"\n"
        )
    };
    (0..JOBS).map(job).collect()
}

/// That of the path, or the one that `tests/tools/strace` unpacks.
fn strace() -> Option<String> {
    let unpacked = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/strace");
    let works = |program: &&str| {
        let tried = Command::new(program)
            .args(["-e", "trace=none", "true"])
            .output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    ["strace", unpacked]
        .iter()
        .find(|program| works(program))
        .map(|program| (*program).to_owned())
}

/// A service whose syncs are counted.
struct Watched {
    here: Installation,
    service: Service,
}

impl Watched {
    fn start(here: Installation, args: &[&str]) -> Option<Self> {
        let Some(strace) = strace() else {
            skipped("counting syncs", "no strace, or it may not trace");
            return None;
        };
        here.schedule("a.toml", &jobs());
        let calls = here.path("calls").display().to_string();
        let traced = [
            // The service itself is the child here: it ends with the test, and with it whoever watches it.
            "-D",
            "-f",
            "-q",
            "-y",
            "-e",
            "trace=fdatasync",
            "-o",
            &calls,
            "--",
        ];
        let mut outer = Command::new(strace);
        outer.args(traced);
        let outer = behind(outer, &here.command(args));
        let service = here.spawn(outer, "service", &[("ORCHESTRATOR_LOG", "debug")]);
        Some(Self { here, service })
    }

    fn steps(&self) -> usize {
        self.service.log().matches("step announced").count()
    }

    fn published(&self) -> usize {
        self.service.log().matches("\"run published\"").count()
    }

    /// How often its store was synced. A call that was interrupted has two lines, of which one has the path.
    fn syncs(&self) -> usize {
        let calls = self.here.read("calls");
        let is_sync = |line: &&str| line.contains("fdatasync(") && line.contains("/db>");
        calls.lines().filter(is_sync).count()
    }

    /// The syncs and the steps of one moment at which everything is due.
    fn of_one_moment(&self) -> (usize, usize) {
        wait_for("the schedule", || {
            self.service.log().contains("next tick").then_some(())
        });
        let before = (self.published(), self.syncs(), self.steps());
        wait_for("a moment", || {
            (self.published() >= before.0 + JOBS).then_some(())
        });
        // The next one is seconds away. The commit is the last sync of this one.
        let mut last = self.syncs();
        wait_for("its commit", || {
            let now = self.syncs();
            let is_quiet = now == last && now > before.1;
            last = now;
            is_quiet.then_some(())
        });
        (self.syncs() - before.1, self.steps() - before.2)
    }
}

#[test]
fn the_ticks_of_a_moment_share_one_sync_of_beat() {
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    let Some(watched) = Watched::start(here, &["beat", "-v"]) else {
        return;
    };
    let (syncs, steps) = watched.of_one_moment();
    println!("{JOBS} ticks at one moment: {steps} steps, {syncs} syncs of beat's own copy");
    // A reload or an idle minute may add one.
    assert!(syncs <= steps + 1, "{syncs} syncs of {steps} steps");
    assert!(steps <= 2, "{steps} steps");
}

#[test]
fn the_ticks_of_a_moment_share_few_syncs_of_up() {
    // Their queue is not served: nothing is executed.
    let here = Installation::new();
    let args = ["up", "-v", "--queue", "another"];
    let Some(watched) = Watched::start(here, &args) else {
        return;
    };
    let (syncs, steps) = watched.of_one_moment();
    println!("{JOBS} ticks at one moment: {steps} steps, {syncs} syncs of the store of `up`");
    assert!(syncs <= JOBS / 10, "{syncs} syncs");
}
