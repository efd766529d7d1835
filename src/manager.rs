//! What the service manager is told, if there is one (`sd_notify(3)`): ready, reloading, stopping, a line of
//! status, and that the loops come round.
//!
//! It speaks only when a loop does, and feeds the watchdog only when every loop came round since the
//! last time. There is no timer here: a process whose loops stand still falls silent, and is restarted.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tracing::warn;

use crate::{
    clock,
    health::{Health, Listener, News, Report},
};

/// The watchdog is fed about so often within its time.
const FEEDS: u32 = 8;
/// The longest line of status.
const STATUS: usize = 400;

/// Tells the service manager that started this process how it is; does nothing if there is none.
pub fn follow(health: &Health) {
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        let narrator = Narrator::new(sd_notify::watchdog_enabled(), clock::monotonic());
        health.tell(Box::new(Manager(Mutex::new(narrator))));
    }
}

#[derive(Debug)]
struct Manager(Mutex<Narrator>);

impl Listener for Manager {
    fn told(&self, health: &Health, news: News) {
        let now = clock::monotonic();
        let mut narrator = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let came_round = narrator.is_hungry(now) && health.came_round_since(narrator.fed_at);
        let messages = narrator.hear(news, &health.report(now), came_round, now);
        if !messages.is_empty()
            && let Err(error) = tell(&messages)
            && !narrator.has_failed
        {
            narrator.has_failed = true;
            warn!(target: "orchestrator::service", %error, "the service manager cannot be told anything");
        }
    }
}

fn tell(messages: &[Message]) -> std::io::Result<()> {
    let mut states = Vec::with_capacity(messages.len() + 1);
    for message in messages {
        match message {
            Message::Ready => states.push(NotifyState::Ready),
            Message::Reloading => {
                states.push(NotifyState::Reloading);
                states.push(NotifyState::monotonic_usec_now()?);
            }
            Message::Stopping => states.push(NotifyState::Stopping),
            Message::Status(line) => states.push(NotifyState::Status(line)),
            Message::Alive => states.push(NotifyState::Watchdog),
        }
    }
    sd_notify::notify(&states)
}

/// What can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Message {
    Ready,
    Reloading,
    Stopping,
    Status(String),
    Alive,
}

/// Decides what to tell; it does nothing itself.
#[derive(Debug)]
struct Narrator {
    /// How long the manager waits for a sign of life.
    watchdog: Option<Duration>,
    fed_at: Instant,
    is_ready: bool,
    reloads: bool,
    status: String,
    has_failed: bool,
}

impl Narrator {
    fn new(watchdog: Option<Duration>, now: Instant) -> Self {
        Self {
            watchdog,
            fed_at: now,
            is_ready: false,
            reloads: false,
            status: String::new(),
            has_failed: false,
        }
    }

    /// Whether it is time for a sign of life.
    fn is_hungry(&self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.fed_at);
        self.watchdog.is_some_and(|limit| since >= limit / FEEDS)
    }

    /// What to tell now. `came_round`: all loops did since the last sign of life, for which it is time.
    fn hear(
        &mut self,
        news: News,
        report: &Report,
        came_round: bool,
        now: Instant,
    ) -> Vec<Message> {
        let mut messages = Vec::new();
        match news {
            // Before it is ready there is nothing that could be read again.
            News::Reloads if self.is_ready && !report.draining => {
                self.reloads = true;
                messages.push(Message::Reloading);
            }
            News::Reloaded if self.reloads => {
                self.reloads = false;
                messages.push(Message::Ready);
            }
            News::Drains => messages.push(Message::Stopping),
            News::CameRound if report.ready && !self.is_ready => {
                self.is_ready = true;
                messages.push(Message::Ready);
            }
            News::CameRound | News::Reloads | News::Reloaded => {}
        }
        let status = status(report);
        if status != self.status {
            messages.push(Message::Status(status.clone()));
            self.status = status;
        }
        if came_round {
            self.fed_at = now;
            messages.push(Message::Alive);
        }
        messages
    }
}

/// One line for `systemctl status`.
fn status(report: &Report) -> String {
    let is_alone = report.parts.len() == 1;
    let parts = report.parts.iter().map(|part| {
        let note = part.note.as_ref();
        let note = note.map_or_else(String::new, |note| format!(" ({note})"));
        match is_alone {
            true => format!("{}{note}", part.detail),
            false => format!("{}: {}{note}", part.name, part.detail),
        }
    });
    let doing = parts.collect::<Vec<_>>().join("; ");
    let line = match report.draining {
        true => "draining".to_owned(),
        false => doing,
    };
    line.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(STATUS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(80);

    #[derive(Debug)]
    struct World {
        health: Health,
        narrator: Narrator,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let now = clock::monotonic();
            Self {
                health: Health::default(),
                narrator: Narrator::new(Some(LIMIT), now),
                now,
            }
        }

        /// What is told when something is said, without the lines of status.
        fn say(&mut self, news: News) -> Vec<Message> {
            let hungry = self.narrator.is_hungry(self.now);
            let came_round = hungry && self.health.came_round_since(self.narrator.fed_at);
            let report = self.health.report(clock::monotonic());
            let told = self.narrator.hear(news, &report, came_round, self.now);
            let others = told
                .into_iter()
                .filter(|message| !matches!(message, Message::Status(_)));
            others.collect()
        }
    }

    #[test]
    fn it_is_ready_once_when_every_loop_is_well() {
        let mut world = World::new();
        let (beat, worker) = (world.health.part("beat"), world.health.part("worker"));
        assert_eq!(world.say(News::Reloads), [], "not before it is ready");
        beat.is_well("leading");
        assert_eq!(world.say(News::CameRound), []);
        worker.is_well("taking runs");
        assert_eq!(world.say(News::CameRound), [Message::Ready]);
        worker.fails("the broker is away".to_owned());
        assert_eq!(world.say(News::CameRound), []);
        assert_eq!(
            world.narrator.status,
            "beat: leading; worker: the broker is away"
        );
        assert_eq!(world.say(News::Reloaded), [], "nobody asked");
        assert_eq!(world.say(News::Reloads), [Message::Reloading]);
        beat.has_reloaded(Some("2 errors".to_owned()));
        assert_eq!(world.say(News::Reloaded), [Message::Ready]);
        assert_eq!(
            world.narrator.status,
            "beat: leading (2 errors); worker: the broker is away"
        );
        world.health.drains();
        assert_eq!(world.say(News::Drains), [Message::Stopping]);
        assert_eq!(world.narrator.status, "draining");
        assert_eq!(world.say(News::Reloads), []);
    }

    #[test]
    fn a_loop_that_stands_still_starves_the_watchdog() {
        let mut world = World::new();
        let (beat, worker) = (world.health.part("beat"), world.health.part("worker"));
        let later = |pulse: &crate::health::Pulse| pulse.is_well("at work");
        later(&beat);
        later(&worker);
        assert_eq!(world.say(News::CameRound), [Message::Ready], "no hurry");
        world.now += LIMIT / FEEDS;
        later(&beat);
        later(&worker);
        assert_eq!(world.say(News::CameRound), [Message::Alive]);
        // The time of the loops is the real one: it is behind that of this test.
        world.narrator.fed_at = clock::monotonic();
        world.now = world.narrator.fed_at + LIMIT / FEEDS;
        later(&beat);
        assert_eq!(world.say(News::CameRound), [], "the worker stands still");
        worker.beats();
        assert_eq!(world.say(News::CameRound), [Message::Alive]);
        world.narrator.fed_at = clock::monotonic();
        world.now = world.narrator.fed_at + LIMIT / FEEDS;
        worker.beats();
        beat.has_ended();
        world.narrator.fed_at = clock::monotonic();
        world.now = world.narrator.fed_at + LIMIT / FEEDS;
        worker.beats();
        assert_eq!(
            world.say(News::CameRound),
            [Message::Alive],
            "beat has ended"
        );
    }

    #[test]
    fn a_status_is_one_short_line() {
        let mut world = World::new();
        let beat = world.health.part("beat");
        beat.fails("a\nb\u{1b}[31m".to_owned() + &"x".repeat(1000));
        world.say(News::CameRound);
        assert!(world.narrator.status.starts_with("a b [31mxxx"));
        assert_eq!(world.narrator.status.chars().count(), STATUS);
    }
}
