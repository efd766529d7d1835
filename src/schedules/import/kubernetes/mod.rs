//! CronJobs of Kubernetes → drafts.
//!
//! Several documents and lists are read; objects of other kinds are passed over. The first container
//! of a pod becomes the command; images, volumes and the like stay behind, as comments.

mod container;
mod schedule;
mod yaml;

use super::{
    ImportError, Imported, Input,
    document::{Document, Draft, Note, seconds, text},
    write::{Places, finish},
};
use schedule::When;
use yaml::Node;

/// Keys of a CronJob's `spec` that are carried over, or say only how long objects are kept.
const SPEC: [&str; 8] = [
    "schedule",
    "timeZone",
    "concurrencyPolicy",
    "startingDeadlineSeconds",
    "suspend",
    "jobTemplate",
    "successfulJobsHistoryLimit",
    "failedJobsHistoryLimit",
];

/// The same of a Job's `spec`.
const JOB: [&str; 4] = [
    "template",
    "backoffLimit",
    "activeDeadlineSeconds",
    "ttlSecondsAfterFinished",
];

pub(super) fn read(input: &Input<'_>) -> Result<Imported, ImportError> {
    let places = Places::new(input);
    let documents = yaml::read(input.text).map_err(|note| places.refuse(&note))?;
    let mut objects = Vec::new();
    for document in &documents {
        collect(document, &mut objects);
    }
    let (cron_jobs, others): (Vec<_>, Vec<_>) = objects
        .into_iter()
        .partition(|object| object.text_of("kind") == Some("CronJob"));
    if cron_jobs.is_empty() {
        return Err(places.refuse(&nothing(&others)));
    }
    let mut document = start(input);
    if !others.is_empty() {
        document.head.push(format!(
            "Passed over, being no CronJobs: {}",
            kinds(&others)
        ));
    }
    document.drafts = cron_jobs.into_iter().map(draft).collect();
    Ok(finish(&places, document, input.now))
}

/// The objects of a document: itself, or what it lists.
fn collect<'n>(node: &'n Node, objects: &mut Vec<&'n Node>) {
    let listed = node
        .text_of("kind")
        .is_some_and(|kind| kind.ends_with("List"));
    match (listed, node.get("items")) {
        (true, Some(items)) => items.items().iter().for_each(|item| collect(item, objects)),
        _ if node.entries().is_empty() => {
            node.items().iter().for_each(|item| collect(item, objects));
        }
        _ => objects.push(node),
    }
}

/// The kinds of objects, each once.
fn kinds(objects: &[&Node]) -> String {
    let mut kinds: Vec<_> = objects
        .iter()
        .map(|one| one.text_of("kind").unwrap_or("without kind"))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.truncate(10);
    kinds.join(", ")
}

fn nothing(others: &[&Node]) -> Note {
    let (line, message) = match others.first() {
        Some(first) => (
            first.line,
            format!("there is no CronJob in it; it has: {}", kinds(others)),
        ),
        None => (1, "there is no CronJob in it".to_owned()),
    };
    Note::new(line, message)
        .with_help("`kubectl get cronjobs -A -o yaml` writes what can be imported")
}

fn start(input: &Input<'_>) -> Document {
    let mut document = Document::new("CronJobs of", input);
    document.explain_zone(
        "CronJobs without timeZone are read in the zone of the controller, which is UTC nearly everywhere; \
         --timezone sets another.",
    );
    document.set_default(
        "overlap",
        text("allow"),
        "concurrencyPolicy is Allow where a CronJob does not say otherwise.",
    );
    document.set_default(
        "catch_up_window",
        seconds(366 * 86_400),
        "The newest run that was missed is started however late, unless startingDeadlineSeconds says otherwise.",
    );
    document.set_default(
        "retry",
        "{ attempts = 7, initial = \"10s\", max = \"6m\" }".to_owned(),
        "backoffLimit is 6 where a CronJob does not say otherwise.",
    );
    document.set_default(
        "kill",
        "{ grace = \"30s\" }".to_owned(),
        "terminationGracePeriodSeconds is 30 where a CronJob does not say otherwise.",
    );
    document
}

fn draft(object: &Node) -> Draft {
    let name = object.at(&["metadata", "name"]).and_then(Node::text);
    let namespace = object.at(&["metadata", "namespace"]).and_then(Node::text);
    let origin = match (namespace, name) {
        (Some(namespace), Some(name)) => format!("CronJob `{name}` in namespace `{namespace}`"),
        (None, Some(name)) => format!("CronJob `{name}`"),
        (_, None) => "CronJob without a name".to_owned(),
    };
    let named = object.at(&["metadata", "name"]);
    let line = named.map_or(object.line, |name| name.line);
    let mut draft = Draft::new(
        line,
        format!("line {line}: {origin}"),
        name.unwrap_or("job"),
    );
    for key in ["description", "kubernetes.io/description"] {
        if let Some(text_of) = object
            .at(&["metadata", "annotations", key])
            .and_then(Node::text)
        {
            draft.set("description", text(text_of));
            break;
        }
    }
    let Some(spec) = object.get("spec") else {
        draft.leave_out(
            "the CronJob has no `spec`",
            "give one with `schedule` and `jobTemplate`",
        );
        return draft;
    };
    when(&mut draft, spec);
    policies(&mut draft, spec);
    let mut lost = unknown(spec, &SPEC);
    match spec.at(&["jobTemplate", "spec"]) {
        Some(job) => {
            lost.extend(unknown(job, &JOB));
            limits(&mut draft, job);
            match job.at(&["template", "spec"]) {
                Some(pod) => lost.extend(container::pod(&mut draft, pod)),
                None => draft.leave_out(
                    "the CronJob has no pod",
                    "give one in spec.jobTemplate.spec.template.spec",
                ),
            }
        }
        None => draft.leave_out("the CronJob has no `jobTemplate`", "give one with a pod"),
    }
    if !lost.is_empty() {
        draft.lose(lost.join(", "));
    }
    draft
}

fn unknown(node: &Node, known: &[&str]) -> Vec<String> {
    let keys = node.keys().filter(|key| !known.contains(key));
    keys.map(str::to_owned).collect()
}

fn when(draft: &mut Draft, spec: &Node) {
    let Some(node) = spec.get("schedule") else {
        return draft.leave_out("the CronJob has no `schedule`", "give one");
    };
    let read = node
        .text()
        .map_or(Err("it is no text".to_owned()), schedule::read);
    let schedule = match read {
        Ok(schedule) => schedule,
        Err(message) => {
            return draft.leave_out(format!("schedule: {message}"), "write `cron` or `every`");
        }
    };
    match schedule.when {
        When::Cron(expression) => draft.set("cron", text(&expression)),
        When::Every(length) => {
            draft.set("every", seconds(length));
            draft.explanations.push(
                "@every counts from the start of the controller; here the runs lie on a grid of Unix time."
                    .to_owned(),
            );
        }
    }
    if let Some(zone) = spec.text_of("timeZone").or(schedule.zone) {
        draft.set("timezone", text(zone));
    }
}

fn policies(draft: &mut Draft, spec: &Node) {
    match spec.text_of("concurrencyPolicy") {
        None | Some("Allow") => {}
        Some("Forbid") => draft.set("overlap", text("skip")),
        Some("Replace") => draft.set("overlap", text("replace")),
        Some(other) => draft.lose(format!(
            "concurrencyPolicy {other}, which is not known here"
        )),
    }
    if let Some(length) = number(draft, spec, "startingDeadlineSeconds") {
        draft.set("catch_up_window", seconds(length));
    }
    if spec.text_of("suspend") == Some("true") {
        draft.set("enabled", "false".to_owned());
    }
}

fn limits(draft: &mut Draft, job: &Node) {
    if let Some(limit) = number(draft, job, "backoffLimit") {
        let attempts = limit.saturating_add(1);
        draft.set(
            "retry",
            match attempts {
                1 => "{ attempts = 1 }".to_owned(),
                // The loader knows no more, and that is enough for a day of attempts.
                _ => format!(
                    "{{ attempts = {}, initial = \"10s\", max = \"6m\" }}",
                    attempts.min(1000)
                ),
            },
        );
        if attempts > 1000 {
            draft.lose(format!("backoffLimit {limit}: it is 1000 attempts here"));
        }
    }
    let pod = job.at(&["template", "spec"]);
    let of_pod = pod.and_then(|pod| number(draft, pod, "activeDeadlineSeconds"));
    let of_job = number(draft, job, "activeDeadlineSeconds");
    if let Some(limit) = of_pod.or(of_job) {
        draft.set("timeout", seconds(limit));
        if of_pod.is_none() && job.text_of("backoffLimit") != Some("0") {
            draft.explanations.push(
                "activeDeadlineSeconds counts over all attempts of a run; timeout counts for each."
                    .to_owned(),
            );
        }
    }
    if let Some(grace) = pod.and_then(|pod| number(draft, pod, "terminationGracePeriodSeconds")) {
        draft.set("kill", format!("{{ grace = {} }}", seconds(grace)));
    }
}

/// A whole number; anything else is not carried over.
fn number(draft: &mut Draft, node: &Node, key: &str) -> Option<u64> {
    let value = node.get(key)?;
    let number = value.text().and_then(|text| text.parse().ok());
    if number.is_none() {
        draft.lose(format!("{key}: it is no whole number"));
    }
    number
}
