//! Three beats, of which one after the other is killed, frozen, stopped or cut off: every tick has one
//! run, whether one of them leads or all work at the same time.
//!
//! `CHAOS_ROUNDS` makes it longer, `CHAOS_STOP_SECONDS` how long a beat is stopped.

use std::time::Duration;

use serde_json::Value;

use crate::{
    beat_killed::{ALWAYS_LIVE, each_takes_its_time},
    seed,
    support::{
        EVERY_SECOND, Installation, Service, checker,
        nats::NatsServer,
        network::Network,
        random::{Random, number},
        wait_for,
    },
};

const BEATS: usize = 3;
/// In a network of its own.
const REMOTE: usize = 2;

/// At each of its steps a beat may stand still for longer than the lease.
fn standstill() -> String {
    each_takes_its_time(1, 1_300)
}

struct Beats {
    running: Vec<Option<Service>>,
    started: usize,
    lease: &'static str,
    network: Network,
    here: Installation,
}

impl Beats {
    fn start(&mut self, at: usize) {
        self.started += 1;
        let name = format!("beat-{}", self.started);
        let directory = self.here.path(&format!("beat-{at}")).display().to_string();
        let args = [
            "beat",
            "--data-dir",
            &directory,
            "--leader-lease",
            self.lease,
        ];
        let standstill = standstill();
        let env = [("FAILPOINTS", standstill.as_str())];
        let service = match at {
            REMOTE => self.here.start_in(&self.network, &name, &args, &env),
            _ => self.here.start_with(&name, &args, &env),
        };
        // Before that a SIGTERM is not understood.
        wait_for("a sign of life", || {
            (!service.log().is_empty()).then_some(())
        });
        self.running[at] = Some(service);
    }

    /// The one that said last that it leads.
    fn leader(&self) -> Option<usize> {
        let led_at = |service: &Service| {
            let log = service.log();
            let line = log.lines().rfind(|line| line.contains("\"leading\""))?;
            let event: Value = serde_json::from_str(line).ok()?;
            Some(event["timestamp"].as_str()?.to_owned())
        };
        let led = self.running.iter().enumerate();
        let led = led.filter_map(|(at, service)| Some((led_at(service.as_ref()?)?, at)));
        Some(led.max()?.1)
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "faults have their time, nothing is waited for"
    )]
    fn trouble(&mut self, random: &mut Random) {
        let pause = |below: u64, random: &mut Random| {
            std::thread::sleep(Duration::from_millis(random.below(below)));
        };
        let anybody = random.below(BEATS as u64) as usize;
        let at = match random.below(3) {
            0 => anybody,
            _ => self.leader().unwrap_or(anybody),
        };
        match random.below(10) {
            0..=2 => {
                self.running[at].take().unwrap().kill9();
                pause(1_500, random);
                self.start(at);
            }
            3..=5 => {
                let frozen = self.running[at].as_ref().unwrap();
                frozen.signal(rustix::process::Signal::STOP);
                pause(2_500, random);
                frozen.signal(rustix::process::Signal::CONT);
            }
            6 => {
                let stopped = self.running[at].take().unwrap();
                // One that has hardly been started knows no signals yet.
                wait_for("a beat that can be stopped", || {
                    stopped.log().contains("connected to NATS").then_some(())
                });
                assert!(stopped.stop().success());
                self.start(at);
            }
            7 => {
                // As on another machine.
                self.running[at].take().unwrap().kill9();
                std::fs::remove_dir_all(self.here.path(&format!("beat-{at}"))).unwrap();
                self.start(at);
            }
            _ => {
                self.network.pull();
                pause(2_500, random);
                self.network.plug();
            }
        }
        pause(1_000, random);
    }
}

fn every_tick_has_one_run(lease: &'static str) {
    let mut random = seed();
    let rounds = number("CHAOS_ROUNDS", 12);
    let network = Network::new();
    let nats = NatsServer::start_at(network.outside(), "");
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    here.schedule("b.toml", ALWAYS_LIVE);
    let worker = here.start(
        "worker",
        &["worker", "--queue", "default", "--trust-broker"],
    );
    let mut beats = Beats {
        running: (0..BEATS).map(|_| None).collect(),
        started: 0,
        lease,
        network,
        here,
    };
    for at in 0..BEATS {
        beats.start(at);
    }
    wait_for("the first run", || {
        (!beats.here.lines("ticks").is_empty()).then_some(())
    });
    for _ in 0..rounds {
        beats.trouble(&mut random);
    }
    let here = &beats.here;
    let before = here.lines("ticks").len();
    wait_for("runs after the last trouble", || {
        (here.lines("ticks").len() > before + 3).then_some(())
    });
    for service in beats.running.iter_mut().flat_map(Option::take) {
        assert!(service.stop().success());
    }
    checker::all_ended(here);
    assert!(worker.stop().success());
    for job in ["tick", "live", "replaced"] {
        checker::one_verdict_each(here, job);
    }
    checker::executed_once(here, "tick", "ticks");
}

/// What it said last of the lead.
fn says_that_it_leads(beat: &Service) -> bool {
    let log = beat.log();
    let leads = |line: &str| line.contains("\"leading\"");
    let of_the_lead =
        |line: &&str| leads(line) || line.contains("standing by") || line.contains("stands by");
    log.lines().rfind(of_the_lead).is_some_and(leads)
}

/// The beat that leads is stopped for longer than its lease, and goes on in the middle of what it did: its late
/// publishes are refused or dropped.
#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "faults have their time, nothing is waited for"
)]
fn stopped_past_the_lease_and_continued() {
    let mut random = seed();
    let (rounds, hold) = (number("CHAOS_ROUNDS", 3), number("CHAOS_STOP_SECONDS", 2));
    let nats = NatsServer::start();
    let here = Installation::on_nats(&nats.url());
    here.schedule("a.toml", EVERY_SECOND);
    let worker = here.start("worker", &["worker", "--queue", "default"]);
    let start = |name: &str| {
        let directory = here.path(name).display().to_string();
        let args = [
            "beat",
            "--data-dir",
            &directory,
            "--leader-lease",
            "900ms",
            "-v",
        ];
        here.start_with(name, &args, &[("FAILPOINTS", standstill().as_str())])
    };
    let mut leads = start("beat-0");
    wait_for("a leader", || {
        leads.log().contains("\"leading\"").then_some(())
    });
    let mut stands_by = start("beat-1");
    wait_for("a standby", || {
        stands_by.log().contains("standing by").then_some(())
    });
    for _ in 0..rounds {
        std::thread::sleep(Duration::from_millis(random.below(1_500)));
        // On a busy machine the other one may have taken over by itself.
        if says_that_it_leads(&stands_by) && !says_that_it_leads(&leads) {
            std::mem::swap(&mut leads, &mut stands_by);
        }
        leads.signal(rustix::process::Signal::STOP);
        wait_for("the other beat to lead", || {
            says_that_it_leads(&stands_by).then_some(())
        });
        std::thread::sleep(Duration::from_secs(hold));
        leads.signal(rustix::process::Signal::CONT);
        std::mem::swap(&mut leads, &mut stands_by);
    }
    let before = here.lines("ticks").len();
    wait_for("more ticks", || {
        (here.lines("ticks").len() > before + 2).then_some(())
    });
    assert!(leads.stop().success() && stands_by.stop().success());
    checker::all_ended(&here);
    assert!(worker.stop().success());
    checker::one_verdict_each(&here, "tick");
    checker::executed_once(&here, "tick", "ticks");
}

#[test]
fn with_a_leader() {
    every_tick_has_one_run("900ms");
}

#[test]
fn all_at_the_same_time() {
    every_tick_has_one_run("off");
}
