//! How ticks turn into runs: `catch_up`, `overlap`, `jitter`, `start`, `end` and their like.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{
    moment::moment,
    reader::{Located, Reader},
    settings::Settings,
};
use crate::job::{Active, Policy, Seconds, Trigger};

/// The longest jitter.
const MAX_JITTER: Duration = Duration::from_secs(86_400);

/// The policy of a job, if nothing is wrong with it.
pub(super) fn policy(
    reader: &mut Reader<'_>,
    (own, defaults): (&Settings, &Settings),
    trigger: Option<&Trigger>,
    timezone: Tz,
    now: DateTime<Utc>,
) -> Option<Policy> {
    let standard = Policy::default();
    let jitter = jitter(reader, own, defaults, trigger);
    let active = active(reader, own, defaults, timezone, now);
    let alert = alert(reader, own, defaults, trigger);
    Some(Policy {
        alert_if_no_success_for: alert?,
        jitter: jitter?,
        active: active?,
        first_run: own
            .first_run
            .or(defaults.first_run)
            .unwrap_or(standard.first_run),
        catch_up: own
            .catch_up
            .or(defaults.catch_up)
            .unwrap_or(standard.catch_up),
        catch_up_window: own
            .catch_up_window
            .or(defaults.catch_up_window)
            .unwrap_or(standard.catch_up_window),
        max_catch_up: own
            .max_catch_up
            .or(defaults.max_catch_up)
            .unwrap_or(standard.max_catch_up),
        overlap: own.overlap.or(defaults.overlap).unwrap_or(standard.overlap),
        expires: own.expires.or(defaults.expires),
        // Known when all files are read.
        blackouts: Vec::new(),
    })
}

/// After how long without a success the job is overdue. What `[defaults]` say concerns jobs with ticks.
fn alert(
    reader: &mut Reader<'_>,
    own: &Settings,
    defaults: &Settings,
    trigger: Option<&Trigger>,
) -> Option<Option<Seconds>> {
    let is_on_demand = matches!(trigger, Some(Trigger::OnDemand));
    match (
        &own.alert_if_no_success_for,
        &defaults.alert_if_no_success_for,
    ) {
        (Some(Located { span, .. }), _) if is_on_demand => {
            let help =
                "give the job a trigger, or a `ping` whose service watches over it".to_owned();
            let message = "`alert_if_no_success_for` is for jobs with a trigger";
            reader.error_with_help(span.clone(), message, Some(help));
            None
        }
        (None, _) if is_on_demand => Some(None),
        (Some(limit), _) | (None, Some(limit)) => Some(Some(limit.value)),
        (None, None) => Some(None),
    }
}

/// The jitter, if there is one.
fn jitter(
    reader: &mut Reader<'_>,
    own: &Settings,
    defaults: &Settings,
    trigger: Option<&Trigger>,
) -> Option<Option<Seconds>> {
    let Some(Located { value, span }) = own.jitter.as_ref().or(defaults.jitter.as_ref()) else {
        return Some(None);
    };
    if value.get() > MAX_JITTER {
        reader.error(span.clone(), "`jitter` is at most 1day");
        return None;
    }
    if let (Some(Trigger::Every(interval)), true) = (trigger, own.jitter.is_some())
        && value.get() >= interval.length()
    {
        let help = "give less, or runs start in another order than their ticks";
        reader.warn(span.clone(), "`jitter` is as long as the interval", help);
    }
    Some((!value.get().is_zero()).then_some(*value))
}

/// `start` and `end`.
fn active(
    reader: &mut Reader<'_>,
    own: &Settings,
    defaults: &Settings,
    timezone: Tz,
    now: DateTime<Utc>,
) -> Option<Active> {
    let mut read = |located: Option<&Located<String>>| match located {
        None => Some(None),
        Some(Located { value, span }) => match moment(value, timezone) {
            Ok(at) => Some(Some(at)),
            Err(error) => {
                reader.error_with_help(span.clone(), error.message, Some(error.help));
                None
            }
        },
    };
    let start = read(own.start.as_ref().or(defaults.start.as_ref()));
    let last = own.end.as_ref().or(defaults.end.as_ref());
    let end = read(last);
    let active = Active {
        start: start?,
        end: end?,
    };
    if let (Some(end), Some(Located { span, .. })) = (active.end, last) {
        if active.start.is_some_and(|start| end < start) {
            let help = "a job has ticks from `start` to `end`".to_owned();
            reader.error_with_help(span.clone(), "`end` lies before `start`", Some(help));
            return None;
        }
        if end < now {
            let help = "it can still be run by hand; remove it when it is no longer needed";
            let message = "`end` lies in the past, so this job never comes due";
            reader.warn(span.clone(), message, help);
        }
    }
    Some(active)
}
