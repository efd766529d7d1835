//! `[notify.NAME]`: who is told what happens to jobs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use toml::de::DeTable;

use super::{
    checks::{credential, is_for_jobs},
    choices,
    diagnostic::Findings,
    reader::{Item, Located, Reader, narrow},
    source::Source,
    values,
};
use crate::job::{
    About, CredentialName, Event, Job, JobName, Seconds, Template, Webhook, WebhookName,
};

/// The keys of a webhook.
pub(super) const NOTIFY_KEYS: [&str; 7] = [
    "description",
    "jobs",
    "on",
    "repeat",
    "secret",
    "tags",
    "url",
];

/// How long a failure is not told again.
const REPEAT: Seconds = Seconds::from_secs(3600);

/// The webhooks of all files so far.
#[derive(Default)]
pub(super) struct Webhooks {
    known: BTreeMap<WebhookName, Webhook>,
    /// `FILE:LINE` of each, good or not.
    places: HashMap<WebhookName, String>,
    /// The jobs that they name, perhaps of files that are yet to be read.
    named: Vec<(Located<JobName>, Source)>,
}

impl Webhooks {
    /// Reads the webhooks of a file.
    pub(super) fn read(&mut self, reader: &mut Reader<'_>, table: &DeTable<'_>) {
        for (key, item) in table {
            let text: &str = key.get_ref();
            let name = match text.parse::<WebhookName>() {
                Ok(name) => name,
                Err(error) => {
                    let help = format!("write [notify.{}]", narrow(text));
                    let message = format!("webhook name: {error}");
                    reader.error_with_help(key.span(), message, Some(help));
                    continue;
                }
            };
            let here = reader.line_of(key.span().start);
            if let Some(there) = self.places.get(&name) {
                let message =
                    format!("the webhook `{name}` is defined twice: at {there} and at {here}");
                let help = "webhook names are unique over all files: rename or remove one";
                reader.error_with_help(key.span(), message, Some(help.to_owned()));
                continue;
            }
            self.places.insert(name.clone(), here);
            let place = format!("[notify.{text}]");
            let Some(table) = reader.table(&format!("notify.{text}"), item) else {
                continue;
            };
            let fields = Fields::read(reader, &place, table);
            let source = reader.source.clone();
            let jobs = fields.jobs.iter().flatten();
            self.named
                .extend(jobs.map(|job| (job.clone(), source.clone())));
            if fields.url.is_none() && !fields.is_broken && !reader.is_broken() {
                let help = "write for example url = \"https://example.org/hook\"".to_owned();
                reader.error_with_help(key.span(), "this webhook has no `url`", Some(help));
            }
            if let Some(webhook) = fields.webhook(name.clone()) {
                self.known.insert(name, webhook);
            }
        }
    }

    /// The webhooks, whose jobs must be among `jobs`.
    pub(super) fn resolve(
        self,
        jobs: &BTreeMap<JobName, Arc<Job>>,
        is_complete: bool,
        findings: &mut Findings,
    ) -> BTreeMap<WebhookName, Webhook> {
        for (Located { value: name, span }, source) in &self.named {
            // A job with a mistake is not among them.
            if jobs.contains_key(name) || !is_complete {
                continue;
            }
            let mut reader = Reader::new(source, findings);
            let help = reader.did_you_mean(name.as_str(), jobs.keys().map(JobName::as_str));
            reader.error_with_help(span.clone(), format!("there is no job `{name}`"), help);
        }
        self.known
    }
}

/// What a table says, key by key.
#[derive(Default)]
struct Fields {
    url: Option<Template>,
    secret: Option<CredentialName>,
    on: Option<Vec<Event>>,
    jobs: Option<Vec<Located<JobName>>>,
    tags: Option<Vec<String>>,
    repeat: Option<Seconds>,
    /// Whether something could not be read, so that nothing is missing.
    is_broken: bool,
}

impl Fields {
    fn read(reader: &mut Reader<'_>, place: &str, table: &DeTable<'_>) -> Self {
        let mut fields = Self::default();
        for (key, item) in table {
            let name: &str = key.get_ref();
            let is_good = match name {
                "url" => keep(&mut fields.url, url(reader, values::NOTIFY_URL, item)),
                "secret" => keep(&mut fields.secret, credential(reader, name, item)),
                "on" => {
                    let on = reader.one_or_more(name, item, |reader, item| {
                        reader.choice(name, item, &choices::EVENT)
                    });
                    keep(&mut fields.on, on)
                }
                "jobs" => {
                    let jobs = reader.one_or_more(name, item, |reader, item| {
                        let value = reader.name(name, item)?;
                        let span = item.span();
                        Some(Located { value, span })
                    });
                    keep(&mut fields.jobs, jobs)
                }
                "tags" => {
                    let tags = reader.one_or_more(name, item, |reader, item| {
                        reader.text(name, item).map(str::to_owned)
                    });
                    keep(&mut fields.tags, tags)
                }
                "repeat" => keep(&mut fields.repeat, reader.positive(name, item)),
                "description" => reader.text(name, item).is_some(),
                _ => {
                    reader.unknown_key(key.span(), name, place, &NOTIFY_KEYS);
                    false
                }
            };
            fields.is_broken |= !is_good;
        }
        fields
    }

    fn webhook(self, name: WebhookName) -> Option<Webhook> {
        let jobs = self.jobs.unwrap_or_default();
        Some(Webhook {
            name,
            url: self.url?,
            secret: self.secret,
            on: match self.on {
                Some(on) => on.into_iter().collect(),
                None => BTreeSet::from(Event::ALL),
            },
            about: About {
                jobs: jobs.into_iter().map(|job| job.value).collect(),
                tags: self.tags.unwrap_or_default().into_iter().collect(),
            },
            repeat: self.repeat.unwrap_or(REPEAT),
        })
    }
}

/// Whether there was a value.
fn keep<T>(field: &mut Option<T>, value: Option<T>) -> bool {
    *field = value;
    field.is_some()
}

/// A URL in which only credentials are filled in.
fn url(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Template> {
    let url = values::template(reader, key, item)?;
    let source = url.source();
    let is_one_credential = source.starts_with("{credential.");
    let has_scheme = source.starts_with("http://") || source.starts_with("https://");
    if !has_scheme && !is_one_credential {
        let help = "write https://…, or \"{credential.NAME}\" for a URL that is secret".to_owned();
        reader.error_with_help(item.span(), format!("`{key}` is no URL"), Some(help));
        return None;
    }
    let others = source.matches('{').count() - source.matches("{credential.").count();
    if others > 0 {
        let message =
            format!("`{key}` of a webhook takes no other placeholders than `{{credential.NAME}}`");
        reader.error(item.span(), message);
        return None;
    }
    let names = url.credentials().flat_map(str::parse::<CredentialName>);
    let names: Vec<_> = names.collect();
    let is_told = |name: &CredentialName| is_for_jobs(reader, name, item);
    names.iter().all(is_told).then_some(url)
}
