//! Rules that a finished job is checked by.

use std::ops::Range;

use chrono::{DateTime, Utc};

use super::{
    reader::{Item, Reader},
    settings::Settings,
};
use crate::{
    job::{Anchor, CredentialName, Execute, Job, LeaseLoss, Overlap, Template, Trigger},
    run::{RunId, RunMessage},
};

/// Jobs whose texts are shorter in all cannot fill a message, however they are escaped.
const SURELY_FITS: usize = 100 * 1024;

/// A job with a lock is always stopped: nobody is to believe otherwise.
pub(super) fn check_lease_loss(reader: &mut Reader<'_>, job: &Job, own: &Settings) {
    if let Some(loss) = &own.lease_loss
        && loss.value == LeaseLoss::Continue
        && job.spec.lock.is_some()
    {
        let message = "a job with a `lock` cannot go on without its lease: somebody else may be given the lock";
        let help = "remove `lease_loss`, or the `lock`".to_owned();
        reader.error_with_help(loss.span.clone(), message, Some(help));
    }
}

/// A request is sent by the worker itself.
pub(super) fn check_limits(reader: &mut Reader<'_>, job: &Job, own: &Settings) {
    if let (Some(limits), Execute::Http(_)) = (&own.limits, &job.spec.execute) {
        let message = "`limits` keep the processes of a job in bounds; `http` starts none";
        let help = "remove `limits`".to_owned();
        reader.error_with_help(limits.span.clone(), message, Some(help));
    }
}

/// A request is sent by the worker itself.
pub(super) fn check_run_as(reader: &mut Reader<'_>, job: &Job, own: &Settings) {
    if let (Some(user), Execute::Http(_)) = (&own.run_as, &job.spec.execute) {
        let message = "`run_as` says whose the processes of a job are; `http` starts none";
        let help = "remove `run_as`".to_owned();
        reader.error_with_help(user.span.clone(), message, Some(help));
    }
}

/// A tick brings no arguments of its own: those that the command needs must be in `args`.
pub(super) fn check_arguments(reader: &mut Reader<'_>, job: &Job, name_span: &Range<usize>) {
    if job.trigger == Trigger::OnDemand {
        return;
    }
    let missing = job
        .spec
        .templates()
        .flat_map(Template::arguments)
        .find(|name| !job.spec.args.contains_key(*name));
    if let Some(name) = missing {
        let message =
            format!("the runs of this job's trigger have no argument `{name}` and will fail");
        let help = format!("give a default: args = {{ {name} = … }}");
        reader.warn(name_span.clone(), message, &help);
    }
}

/// Refuses a job whose message no broker would take.
pub(super) fn check_size(
    reader: &mut Reader<'_>,
    job: &Job,
    name_span: Range<usize>,
    now: DateTime<Utc>,
) -> Option<()> {
    let executed = match &job.spec.execute {
        Execute::Command(command) => command.iter().map(|part| part.source().len() + 4).sum(),
        Execute::Shell(script) => script.len(),
        Execute::Http(http) => http.templates().map(|part| part.source().len() + 4).sum(),
    };
    let env = job
        .spec
        .env
        .iter()
        .map(|(key, value)| key.len() + value.len() + 8);
    let size = executed + env.sum::<usize>();
    if size < SURELY_FITS && job.spec.args.is_empty() {
        return Some(());
    }
    let run_id = RunId::for_tick(job.name.clone(), now);
    let message = RunMessage {
        not_before: Some(now),
        expires_at: Some(now),
        last_success: Some(now),
        overlap: Some(Overlap::Replace),
        anchor: Some(Anchor::LastSuccess),
        ..RunMessage::new(run_id, job.queue.clone(), now, job.spec.clone())
    };
    match message.encode() {
        Ok(_) => Some(()),
        Err(error) => {
            let help = "keep large data in a file, and hand over its path".to_owned();
            let message = format!("no run of this job can be published: {error}");
            reader.error_with_help(name_span, message, Some(help));
            None
        }
    }
}

/// A request can only use the credentials that its job names.
pub(super) fn check_credentials(reader: &mut Reader<'_>, job: &Job, name_span: &Range<usize>) {
    let mut used = job.spec.templates().flat_map(Template::credentials);
    let is_named = |name: &str| job.spec.credentials.iter().any(|own| own.as_str() == name);
    if let Some(name) = used.find(|name| !is_named(name)) {
        let message = format!("`{{credential.{name}}}` is used, but the job does not name it");
        let help = format!("write credential = \"{name}\"");
        reader.error_with_help(name_span.clone(), message, Some(help));
    }
}

/// The name of a credential for a job or a webhook: none of those that services get into NATS with, or sign with.
pub(super) fn credential(
    reader: &mut Reader<'_>,
    key: &str,
    item: &Item<'_>,
) -> Option<CredentialName> {
    let name = reader.name(key, item)?;
    is_for_jobs(reader, &name, item).then_some(name)
}

/// Whether a job or a webhook can have a credential; if not, that is said.
pub(super) fn is_for_jobs(reader: &mut Reader<'_>, name: &CredentialName, item: &Item<'_>) -> bool {
    if name.is_reserved() {
        let message = format!("`{name}` is a credential of the services themselves");
        let help = "give jobs and webhooks others: none that begin with `nats-` or `orchestrator-`";
        reader.error_with_help(item.span(), message, Some(help.to_owned()));
    }
    !name.is_reserved()
}
