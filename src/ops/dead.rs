//! Dead letters: what nobody could execute, until a person decides.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{OpsError, retry::Original};
use crate::{
    broker::{Broker, Bucket, DeadLetter, Refused, RefusedBy},
    job::{JobName, QueueName},
    run::{Refusal, RunId, RunMessage, RunRecord, RunState, Standing, good_until},
};

/// A dead letter as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct DeadView {
    /// Its place in the dead letters.
    pub sequence: u64,
    /// The run, if it could be understood that far.
    pub run_id: Option<RunId>,
    /// Where it came from.
    pub queue: QueueName,
    /// When it was given up.
    pub at: DateTime<Utc>,
    /// Why.
    pub reason: String,
    /// What refused it, if it was not even tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// The key with which its message says that it is signed; whether that is so is seen when it is retried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    /// The run that its message is for, if the letter names another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_of: Option<RunId>,
    /// The queue that its message is for, if it did not come from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_for: Option<QueueName>,
    /// The message as text, what is not text replaced.
    pub message: String,
    /// Whether there is more of the message.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub message_is_cut: bool,
}

/// Dead letters of one job with the same reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeadGroup {
    /// The job, if it could be understood that far.
    pub job: Option<JobName>,
    /// Why they were given up.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// When the first of them was given up.
    pub first_at: DateTime<Utc>,
    /// When the last of them was given up.
    pub last_at: DateTime<Utc>,
    /// The run of the last one, as an example.
    pub run_id: Option<RunId>,
}

/// Which dead letters are meant: those that satisfy everything that is given.
#[derive(Debug, Clone, Default)]
pub struct DeadFilter {
    /// Of these runs or with these sequences; empty: any.
    pub letters: Vec<LetterRef>,
    /// Of this job.
    pub job: Option<JobName>,
    /// From this queue.
    pub queue: Option<QueueName>,
    /// With this text in their reason.
    pub reason: Option<String>,
}

/// How a person names a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterRef {
    /// By its run.
    Run(RunId),
    /// By its place.
    Sequence(u64),
}

impl std::str::FromStr for LetterRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix('#').unwrap_or(text);
        match (number.parse(), text.parse()) {
            (Ok(sequence), _) => Ok(Self::Sequence(sequence)),
            (Err(_), Ok(run)) => Ok(Self::Run(run)),
            (Err(_), Err(error)) => Err(format!("{error}; nor is it a number of a dead letter")),
        }
    }
}

impl std::fmt::Display for LetterRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Run(run) => run.fmt(f),
            Self::Sequence(sequence) => write!(f, "#{sequence}"),
        }
    }
}

impl DeadFilter {
    /// Whether a letter is named by its number.
    fn names(&self, sequence: u64) -> bool {
        self.letters.contains(&LetterRef::Sequence(sequence))
    }

    fn wants(&self, sequence: u64, letter: &DeadLetter) -> bool {
        let run = letter.run_id.as_ref();
        let named = |by: &LetterRef| match by {
            LetterRef::Run(wanted) => run == Some(wanted),
            LetterRef::Sequence(wanted) => *wanted == sequence,
        };
        let job = self.job.as_ref();
        (self.letters.is_empty() || self.letters.iter().any(named))
            && job.is_none_or(|job| run.is_some_and(|run| run.job() == job))
            && self
                .queue
                .as_ref()
                .is_none_or(|queue| *queue == letter.queue)
            && self
                .reason
                .as_ref()
                .is_none_or(|text| letter.reason.contains(text))
    }
}

/// How many letters are asked for at once.
const PAGE: usize = 200;
/// How much of a dead letter's message a list has.
const LISTED_MESSAGE: usize = 4096;

/// The wanted letters, newest first, at most `limit`.
async fn letters(
    broker: &dyn Broker,
    filter: &DeadFilter,
    limit: usize,
) -> Result<Vec<(u64, DeadLetter)>, OpsError> {
    let (mut found, mut below) = (Vec::new(), None);
    while found.len() < limit {
        let page = broker.dead_letters(below, PAGE).await?;
        let Some((oldest, _)) = page.last() else {
            break;
        };
        below = Some(*oldest);
        let wanted = page
            .into_iter()
            .filter(|(sequence, letter)| filter.wants(*sequence, letter));
        found.extend(wanted);
    }
    found.truncate(limit);
    Ok(found)
}

/// The wanted dead letters, newest first, at most `limit`, with the beginning of their messages.
pub async fn dead_letters(
    broker: &dyn Broker,
    filter: &DeadFilter,
    limit: usize,
) -> Result<Vec<DeadView>, OpsError> {
    let letters = letters(broker, filter, limit).await?;
    let view = |(sequence, letter)| view(sequence, letter, LISTED_MESSAGE);
    Ok(letters.into_iter().map(view).collect())
}

/// All wanted dead letters, newest first, with their whole messages: who has one run again signs all of it.
pub async fn whole_dead_letters(
    broker: &dyn Broker,
    filter: &DeadFilter,
) -> Result<Vec<DeadView>, OpsError> {
    let letters = letters(broker, filter, usize::MAX).await?;
    let view = |(sequence, letter)| view(sequence, letter, usize::MAX);
    Ok(letters.into_iter().map(view).collect())
}

fn view(sequence: u64, letter: DeadLetter, most: usize) -> DeadView {
    let shown = letter.payload.get(..most).unwrap_or(&letter.payload);
    let message = RunMessage::decode(&letter.payload).ok();
    let of = message.as_ref().map(|message| &message.run_id);
    let queue = message.as_ref().map(|message| &message.queue);
    let key = |signature: &str| Some(signature.split(' ').nth(1)?.to_owned());
    DeadView {
        sequence,
        signed_by: letter.signature.as_deref().and_then(key),
        message_of: of.filter(|of| letter.run_id.as_ref() != Some(of)).cloned(),
        message_for: queue.filter(|queue| **queue != letter.queue).cloned(),
        message: String::from_utf8_lossy(shown).into_owned(),
        message_is_cut: shown.len() < letter.payload.len(),
        run_id: letter.run_id,
        queue: letter.queue,
        at: letter.at,
        reason: letter.reason,
        refused: letter.refused,
    }
}

/// The wanted dead letters by job and reason, the largest groups first.
pub async fn dead_groups(
    broker: &dyn Broker,
    filter: &DeadFilter,
) -> Result<Vec<DeadGroup>, OpsError> {
    let letters = letters(broker, filter, usize::MAX).await?;
    let mut groups: BTreeMap<(Option<JobName>, String), DeadGroup> = BTreeMap::new();
    for (_, letter) in letters {
        let job = letter.run_id.as_ref().map(|run| run.job().clone());
        let key = (job.clone(), letter.reason.clone());
        let group = groups.entry(key).or_insert_with(|| DeadGroup {
            job,
            reason: letter.reason,
            count: 0,
            first_at: letter.at,
            last_at: letter.at,
            // The newest comes first.
            run_id: letter.run_id,
        });
        group.count += 1;
        group.first_at = group.first_at.min(letter.at);
        group.last_at = group.last_at.max(letter.at);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    Ok(groups)
}

/// What became of one dead letter.
#[derive(Debug, Clone, Serialize)]
pub struct Decided {
    /// Its place in the dead letters.
    pub sequence: u64,
    /// The run, if it could be understood that far.
    pub run_id: Option<RunId>,
    /// The new run, if it is retried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retried_as: Option<RunId>,
    /// Why it is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Runs the wanted dead letters again, oldest first, and removes them. What cannot be run again stays,
/// with the reason. Repeated after a crash it makes no second run.
pub async fn retry_dead(
    broker: &dyn Broker,
    filter: &DeadFilter,
    now: DateTime<Utc>,
) -> Result<Vec<Decided>, OpsError> {
    let mut decided = Vec::new();
    for (sequence, letter) in letters(broker, filter, usize::MAX).await?.into_iter().rev() {
        let retried = retry_letter(broker, filter, (sequence, &letter), now).await;
        let (retried_as, error) = match retried {
            Ok(run) => (Some(run), None),
            // Nothing else will succeed either.
            Err(OpsError::Broker(error)) => return Err(error.into()),
            Err(error) => (None, Some(error.to_string())),
        };
        if retried_as.is_some() {
            broker.discard(sequence).await?;
        }
        decided.push(Decided {
            sequence,
            run_id: letter.run_id,
            retried_as,
            error,
        });
    }
    Ok(decided)
}

/// Whether a letter may be run again. Who signs vouches for what the letter says. So what nobody who may publish has signed,
/// or signed for another run or too long ago, and what was executed already, is run only if a person has named the letter by
/// its number: it may call itself by any run.
async fn may_be_retried(
    broker: &dyn Broker,
    filter: &DeadFilter,
    (sequence, letter): (u64, &DeadLetter),
    message: &RunMessage,
    now: DateTime<Utc>,
) -> Result<(), OpsError> {
    let refused = letter.refused.as_ref();
    let by_signature = refused.is_some_and(|refused| refused.by == RefusedBy::Signature);
    let Some(authority) = broker.authority() else {
        return match by_signature {
            true => Err(OpsError::NeedsSignature(sequence)),
            false => Ok(()),
        };
    };
    if filter.names(sequence) {
        return Ok(());
    }
    let subject = letter.subject.as_deref().unwrap_or_default();
    match authority.judge(subject, letter.signature.as_deref(), &letter.payload) {
        Standing::Genuine => {}
        Standing::Forged(_) | Standing::Unknown(_) => {
            return Err(OpsError::NotVouchedFor(sequence));
        }
    }
    if letter.run_id.as_ref() != Some(&message.run_id) {
        return Err(OpsError::OfAnotherRun(sequence, message.run_id.clone()));
    }
    let is_a_copy = refused.is_some_and(|refused| refused.rule == Refusal::Replayed.rule());
    if is_a_copy || has_ended_otherwise(broker, &message.run_id).await? {
        return Err(OpsError::Copy(sequence));
    }
    match good_until(message) < now {
        true => Err(OpsError::SignedLongAgo(sequence)),
        false => Ok(()),
    }
}

/// Whether the run has ended, and not as a dead letter.
async fn has_ended_otherwise(broker: &dyn Broker, run_id: &RunId) -> Result<bool, OpsError> {
    let entry = broker.get(Bucket::Runs, &run_id.key()).await?;
    let record = entry.and_then(|entry| RunRecord::read(run_id, &entry.value).ok());
    Ok(record.is_some_and(|record| record.state.is_final() && record.state != RunState::Dead))
}

async fn retry_letter(
    broker: &dyn Broker,
    filter: &DeadFilter,
    (sequence, letter): (u64, &DeadLetter),
    now: DateTime<Utc>,
) -> Result<RunId, OpsError> {
    let message = RunMessage::decode(&letter.payload)?;
    may_be_retried(broker, filter, (sequence, letter), &message, now).await?;
    let original = Original {
        run_id: message.run_id.clone(),
        parent: message.parent.clone(),
        // Not those of its record, for which nobody vouches.
        args: message.spec.args.clone(),
        scheduled_for: message.scheduled_for,
        message: Some(message),
    };
    let unique = super::retry::unique_for(&original.run_id, sequence, letter.at);
    super::retry::again(broker, original, unique, now).await
}

/// Removes the wanted dead letters.
pub async fn discard_dead(
    broker: &dyn Broker,
    filter: &DeadFilter,
) -> Result<Vec<Decided>, OpsError> {
    let mut decided = Vec::new();
    for (sequence, letter) in letters(broker, filter, usize::MAX).await? {
        if broker.discard(sequence).await? {
            decided.push(Decided {
                sequence,
                run_id: letter.run_id,
                retried_as: None,
                error: None,
            });
        }
    }
    Ok(decided)
}
