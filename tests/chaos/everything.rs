//! Workers and NATS are killed, frozen, drained and restarted at random, while runs write down what they
//! do. Every run ends, no attempt goes on beside a later one, and nothing is left over.
//!
//! `CHAOS_SECONDS` and `CHAOS_RUNS` make it longer.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::{
    seed,
    support::{
        Installation, Service, checker,
        nats::NatsServer,
        random::{Random, number},
        wait_for, within,
    },
};

const LEASE: &str = "4s";
const WORKERS: usize = 3;

/// Says every 50 ms under which fence it runs, for about half a second, and leaves a daemon behind that
/// does so for ten minutes. One in ten needs the lock.
const JOBS: &str = r#"
[defaults]
working_dir = ".."
overlap = "allow"
lease_loss = "stop"
timeout = "20s"
retry = { max_crashes = 1000 }

[job.work]
shell = '''
say() { echo "$ORCHESTRATOR_RUN_ID $ORCHESTRATOR_FENCE $1" >> said; }
say start
(setsid sh -c 'while :; do echo "$ORCHESTRATOR_RUN_ID $ORCHESTRATOR_FENCE daemon" >> said; sleep 0.1; done' > /dev/null 2>&1 &)
for i in 1 2 3 4 5 6 7 8 9 10; do say $i; sleep 0.05; done
say end'''

[job.alone]
lock = "alone"
shell = '''
echo "start $ORCHESTRATOR_LOCK_TOKEN" >> alone
sleep 0.2
echo "end $ORCHESTRATOR_LOCK_TOKEN" >> alone'''
"#;

struct Cluster {
    here: Installation,
    nats: NatsServer,
    workers: Vec<Option<Service>>,
    started: usize,
    submitted: usize,
}

impl Cluster {
    /// Submits what is missing to `total` runs, and one that needs the lock for every ten of them.
    fn submit(&mut self, total: usize) {
        let tenths = total / 10 - self.submitted / 10;
        for (job, count) in [("work", total - self.submitted), ("alone", tenths)] {
            if count == 0 {
                continue;
            }
            let file = self.here.path(&format!("{job}.jsonl"));
            std::fs::write(&file, "{}\n".repeat(count)).unwrap();
            let file = file.display().to_string();
            let batch = self.here.run(&["run", job, "--batch", &file]);
            assert_eq!(batch.code, 0, "{}", batch.stderr);
        }
        self.submitted = total;
    }

    fn worker(&mut self, at: usize) {
        self.started += 1;
        let name = format!("worker-{}", self.started);
        let args = [
            "worker",
            "--queue",
            "default",
            "--lease",
            LEASE,
            "--concurrency",
            "4",
            "--drain-timeout",
            "300ms",
        ];
        self.workers[at] = Some(self.here.start(&name, &args));
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "faults have their time, nothing is waited for"
    )]
    fn trouble(&mut self, random: &mut Random) {
        let at = usize::try_from(random.below(WORKERS as u64)).unwrap();
        let pause = Duration::from_millis(100 + random.below(900));
        let what = random.below(10);
        match what {
            0..=3 => {
                self.workers[at].take().unwrap().kill9();
                self.worker(at);
            }
            4..=6 => {
                let frozen = self.workers[at].take().unwrap();
                frozen.signal(Signal::STOP);
                std::thread::sleep(Duration::from_millis(500 + random.below(7_000)));
                frozen.signal(Signal::CONT);
                self.workers[at] = Some(frozen);
            }
            7..=8 => {
                assert!(self.workers[at].take().unwrap().stop().success());
                self.worker(at);
            }
            _ => {
                self.nats.kill9();
                std::thread::sleep(Duration::from_millis(random.below(1_500)));
                self.nats.restart();
            }
        }
        std::thread::sleep(pause);
    }
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "its length is given in real time"
)]
fn nothing_overlaps_and_everything_ends_whatever_dies() {
    let mut random = seed();
    let (runs, length) = (number("CHAOS_RUNS", 150), number("CHAOS_SECONDS", 25));
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", JOBS);
    let _beat = here.start("beat", &["beat"]);
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(1).cloned());
    let mut cluster = Cluster {
        here,
        nats,
        workers: (0..WORKERS).map(|_| None).collect(),
        started: 0,
        submitted: 0,
    };
    for at in 0..WORKERS {
        cluster.worker(at);
    }
    let count = usize::try_from(runs).unwrap();
    // A third at once, so that there is always something to do, the others by and by.
    let (start, length) = (Instant::now(), Duration::from_secs(length));
    while start.elapsed() < length {
        let share = 1.0 / 3.0 + start.elapsed().div_duration_f64(length);
        let due = (count as f64 * share) as usize;
        cluster.submit(due.clamp(cluster.submitted, count));
        cluster.trouble(&mut random);
    }
    cluster.submit(count);

    let here = &cluster.here;
    let total = count + count / 10;
    let minutes = Duration::from_secs(180);
    let states = within(minutes, "the end of every run", || {
        let all = here.try_json(&["runs", "--limit", "100000"])?;
        let all = all.as_array()?.clone();
        let ended = all.iter().filter(|run| !run["finished_at"].is_null());
        (all.len() == total && ended.count() == total).then_some(all)
    });
    let odd: Vec<_> = states
        .iter()
        .filter(|run| run["state"] != "succeeded")
        .collect();
    assert!(odd.is_empty(), "{odd:#?}");
    let attempts: usize = states
        .iter()
        .map(|run| run["attempts"].as_array().unwrap().len())
        .sum();
    println!(
        "{total} runs in {attempts} attempts by {} workers",
        cluster.started
    );

    let said = here.lines("said");
    checker::no_fence_speaks_after_a_later_one(said.iter().map(String::as_str));
    let mut last: Option<(u64, bool)> = None;
    for line in here.lines("alone") {
        let (what, token) = line.split_once(' ').unwrap();
        let token: u64 = token.parse().unwrap();
        match (what, last) {
            ("end", Some((open, false))) => assert_eq!(open, token),
            ("end", _) => panic!("{token} ended after its successor had started"),
            (_, Some((before, _))) => {
                assert!(token > before, "{token} after {before}")
            }
            (_, None) => {}
        }
        last = Some((token, what == "end"));
    }
    wait_for("the locks to be free", || {
        here.try_json(&["locks"])?
            .as_array()?
            .is_empty()
            .then_some(())
    });
    // Whoever still speaks was left over.
    let quiet = here.lines("said").len();
    for worker in cluster.workers.iter_mut().flat_map(Option::take) {
        assert!(worker.stop().success());
    }
    assert_eq!(
        cluster.here.lines("said").len(),
        quiet,
        "a daemon is left over"
    );
}
