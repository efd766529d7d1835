//! Tells of dead letters: those of a job in one message, and not every moment.

use std::{
    collections::{BTreeMap, btree_map::Entry as Slot},
    time::Duration,
};

use tokio::time::Instant;

use super::{Courier, post::Posted};
use crate::{
    beat::{BeatError, herald::briefing::newest_letter},
    broker::DeadLetter,
    job::{Event, JobName},
    plan::Alert,
};

/// How many new letters are looked at, at most: the newest.
const LETTERS: usize = 1000;
/// How often they are told, at most.
const EVERY: Duration = Duration::from_secs(60);

impl Courier {
    /// Tells of the dead letters that have come since.
    pub(super) async fn tell_of_letters(&mut self) -> Result<(), BeatError> {
        let told_at = self.letters_told_at;
        if !self.destination.on().contains(&Event::Dead)
            || self.post.is_waiting()
            || told_at.is_some_and(|at| at.elapsed() < EVERY)
        {
            return Ok(());
        }
        let newest = newest_letter(&self.broker).await?;
        if newest == self.briefing.last_letter {
            return Ok(());
        }
        // A broker that lost its data counts from the beginning again.
        let after = Some(self.briefing.last_letter).filter(|&last| last < newest);
        let letters = self.broker.dead_letters(None, LETTERS).await?;
        let new = letters
            .iter()
            .filter(|(sequence, _)| after.is_none_or(|after| *sequence > after));
        for (job, (count, letter)) in by_job(new.map(|(_, letter)| letter)) {
            let about = self.destination.about();
            let defined = job.as_ref().and_then(|name| self.set.get(name));
            if defined.map_or(about.is_all(), |job| about.covers(job)) {
                let alert = dead(job.as_ref(), count, letter);
                if self.post.send(&self.destination, &alert).await == Posted::NotNow {
                    return Ok(());
                }
            }
        }
        self.briefing.last_letter = newest;
        self.letters_told_at = Some(Instant::now());
        self.keep_briefing().await
    }
}

type ByJob<'a> = BTreeMap<Option<JobName>, (u64, &'a DeadLetter)>;

/// How many there are of each job, and the newest of them; the newest come first.
fn by_job<'a>(letters: impl Iterator<Item = &'a DeadLetter>) -> ByJob<'a> {
    let mut by_job = ByJob::new();
    for letter in letters {
        let job = letter.run_id.as_ref().map(|run_id| run_id.job().clone());
        match by_job.entry(job) {
            Slot::Vacant(slot) => {
                slot.insert((1, letter));
            }
            Slot::Occupied(mut slot) => slot.get_mut().0 += 1,
        }
    }
    by_job
}

fn dead(job: Option<&JobName>, count: u64, newest: &DeadLetter) -> Alert {
    let queue = &newest.queue;
    let what = match (&newest.run_id, count) {
        (Some(run_id), 1) => format!("{run_id} is a dead letter"),
        (Some(run_id), _) => {
            let job = run_id.job();
            format!("{count} runs of {job} are dead letters, the last is {run_id}")
        }
        (None, 1) => format!("a message in {queue} was not understood"),
        (None, _) => format!("{count} messages were not understood, the last in {queue}"),
    };
    let text = format!("{what}: {}", newest.reason);
    Alert {
        run_id: newest.run_id.clone(),
        reason: Some(newest.reason.clone()),
        count: Some(count),
        ..Alert::new(Event::Dead, job, newest.at, text)
    }
}
