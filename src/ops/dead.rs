//! Dead letters: what nobody could execute, until a person decides.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{OpsError, retry::Original};
use crate::{
    broker::{Broker, DeadLetter, Refused, RefusedBy},
    job::{JobName, QueueName},
    run::{Refusal, RunId, RunMessage, Standing},
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
    /// The beginning of the message as text, what is not text replaced.
    pub message: String,
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
/// How much of a dead letter's message is shown.
const SHOWN_MESSAGE: usize = 4096;

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

/// The wanted dead letters, newest first, at most `limit`.
pub async fn dead_letters(
    broker: &dyn Broker,
    filter: &DeadFilter,
    limit: usize,
) -> Result<Vec<DeadView>, OpsError> {
    let letters = letters(broker, filter, limit).await?;
    Ok(letters.into_iter().map(view).collect())
}

fn view((sequence, letter): (u64, DeadLetter)) -> DeadView {
    let shown = letter
        .payload
        .get(..SHOWN_MESSAGE)
        .unwrap_or(&letter.payload);
    DeadView {
        sequence,
        message: String::from_utf8_lossy(shown).into_owned(),
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
        let retried = match may_be_retried(broker, filter, sequence, &letter) {
            Ok(()) => retry_letter(broker, sequence, &letter, now).await,
            Err(error) => Err(error),
        };
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

/// Whether a letter may be run again. Who signs vouches for what the letter says: for one without a signature of
/// somebody who may publish only if a person has named it by its number, because it may call itself by any run.
fn may_be_retried(
    broker: &dyn Broker,
    filter: &DeadFilter,
    sequence: u64,
    letter: &DeadLetter,
) -> Result<(), OpsError> {
    let by_signature = letter
        .refused
        .as_ref()
        .is_some_and(|refused| refused.by == RefusedBy::Signature);
    let Some(authority) = broker.authority() else {
        return match by_signature {
            true => Err(OpsError::NeedsSignature(sequence)),
            false => Ok(()),
        };
    };
    let subject = letter.subject.as_deref().unwrap_or_default();
    let standing = authority.judge(subject, letter.signature.as_deref(), &letter.payload);
    let is_a_copy = letter
        .refused
        .as_ref()
        .is_some_and(|refused| refused.rule == Refusal::Replayed.rule());
    match standing {
        Standing::Genuine if is_a_copy && !filter.names(sequence) => Err(OpsError::Copy(sequence)),
        Standing::Genuine => Ok(()),
        Standing::Forged(_) | Standing::Unknown(_) if filter.names(sequence) => Ok(()),
        Standing::Forged(_) | Standing::Unknown(_) => Err(OpsError::NotVouchedFor(sequence)),
    }
}

async fn retry_letter(
    broker: &dyn Broker,
    sequence: u64,
    letter: &DeadLetter,
    now: DateTime<Utc>,
) -> Result<RunId, OpsError> {
    let message = RunMessage::decode(&letter.payload)?;
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
