//! Checks of what an installation did, from public output alone: `runs`, `jobs`, `queues`, and the files that
//! its jobs wrote.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, NaiveDateTime, Utc};
use orchestrator::clock;
use serde_json::Value;

use super::{Installation, wait_for};

/// How many notes are kept of a job.
const NOTES: usize = 100;

fn instant(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

/// Runs by hand have a UUID after the `@`.
fn is_of_a_tick(run_id: &str) -> bool {
    run_id
        .split('@')
        .nth(1)
        .is_some_and(|end| !end.contains('-'))
}

/// A tick that was decided on a second time and not run has a record beside its note, which keeps late publishes from being run.
fn is_called_off(run: &Value) -> bool {
    let reason = run["reason"].as_str().unwrap_or_default();
    run["state"] == "cancelled" && reason.starts_with("its tick was not run")
}

/// The ticks of a job that became runs, in order. No tick has two.
pub fn fired(here: &Installation, job: &str) -> Vec<DateTime<Utc>> {
    let runs = here.runs(job);
    let mut ticks: Vec<_> = runs
        .iter()
        .filter(|run| is_of_a_tick(run["run_id"].as_str().unwrap()) && !is_called_off(run))
        .map(|run| instant(&run["scheduled_for"]))
        .collect();
    ticks.sort_unstable();
    let twice = ticks.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!(twice, None, "a tick has two runs");
    ticks
}

/// Every tick of a job that is due every second, from the first that was fired to the last, has exactly one
/// verdict: a run, or a note. Returns how many there are.
pub fn one_verdict_each(here: &Installation, job: &str) -> usize {
    let mut accounted: BTreeSet<_> = fired(here, job).into_iter().collect();
    let (mut first, last) = (*accounted.first().unwrap(), *accounted.last().unwrap());
    let jobs = here.json(&["jobs"]);
    let mut jobs = jobs.as_array().unwrap().iter();
    let view = jobs.find(|view| view["name"] == job).unwrap();
    let notes = view["notes"].as_array().unwrap();
    if notes.len() >= NOTES {
        // Older ones may have been forgotten.
        let oldest = notes.iter().map(|note| instant(&note["first"])).min();
        first = first.max(oldest.unwrap());
    }
    for note in notes {
        let (from, to) = (instant(&note["first"]), instant(&note["last"]));
        let count = note["count"].as_i64().unwrap();
        assert_eq!((to - from).num_seconds() + 1, count, "{note}");
        let mut tick = from;
        while tick <= to {
            assert!(accounted.insert(tick), "{tick} has two verdicts: {note}");
            tick += Duration::seconds(1);
        }
    }
    let within: BTreeSet<_> = accounted.range(first..=last).copied().collect();
    let missing: Vec<_> = (0..=(last - first).num_seconds())
        .map(|second| first + Duration::seconds(second))
        .filter(|tick| !within.contains(tick))
        .collect();
    assert!(missing.is_empty(), "no verdict on {missing:?}");
    within.len()
}

/// The first word of each line is the id of a run that wrote it when it was executed. Every run of the job was executed
/// at least once and at most once for each of its attempts, and nothing was executed that has no record.
pub fn executed_as_recorded(here: &Installation, job: &str, file: &str) {
    let mut executions: BTreeMap<String, usize> = BTreeMap::new();
    for line in here.lines(file) {
        let id = line.split(' ').next().unwrap_or_default().to_owned();
        *executions.entry(id).or_default() += 1;
    }
    for run in here.runs(job).iter().filter(|run| !is_called_off(run)) {
        let id = run["run_id"].as_str().unwrap();
        let attempts = run["attempts"].as_array().unwrap().len();
        let times = executions.remove(id).unwrap_or_default();
        assert!(
            (1..=attempts).contains(&times),
            "{id}: {times} executions, {attempts} attempts: {run:#}; others: {executions:?}"
        );
    }
    assert!(executions.is_empty(), "without a record: {executions:?}");
}

/// As [`executed_as_recorded`], and nothing was executed twice.
pub fn executed_once(here: &Installation, job: &str, file: &str) {
    executed_as_recorded(here, job, file);
    let lines = here.lines(file);
    let once: BTreeSet<_> = lines.iter().collect();
    assert_eq!(once.len(), lines.len(), "executed twice: {lines:#?}");
}

/// Waits until the newest tick has just been executed: none waits in a queue that is lost in the next moment.
pub fn none_waits(here: &Installation, file: &str) {
    wait_for("a tick that was executed at once", || {
        let newest = here.lines(file).last()?.clone();
        let age = clock::now().naive_utc() - tick_of(&newest);
        (age < Duration::milliseconds(500)).then_some(())
    });
}

fn tick_of(id: &str) -> NaiveDateTime {
    let tick = id.split_once('@').unwrap().1;
    NaiveDateTime::parse_from_str(tick, "%Y%m%dT%H%M%SZ").unwrap()
}

/// Ids of runs, one a line, of a job that is due every second: from the first tick to the last each was executed once.
/// For those whose records are lost.
pub fn every_second_once(executed: &[String]) {
    let ticks: BTreeSet<_> = executed.iter().map(|id| tick_of(id)).collect();
    assert_eq!(ticks.len(), executed.len(), "executed twice: {executed:#?}");
    let whole = *ticks.last().unwrap() - *ticks.first().unwrap();
    let expected = whole.num_seconds() + 1;
    assert_eq!(
        ticks.len() as i64,
        expected,
        "a tick has no run: {executed:#?}"
    );
}

/// Waits until every run has ended and no queue holds anything.
pub fn all_ended(here: &Installation) {
    wait_for("the end of every run", || {
        let open = here.try_json(&["runs", "--limit", "1000000"])?;
        let ended = |run: &Value| !run["finished_at"].is_null();
        open.as_array()?.iter().all(ended).then_some(())
    });
    wait_for("the queues to be empty", || {
        let queues = here.try_json(&["queues"])?;
        let is_empty = |queue: &Value| queue["waiting"] == 0 && queue["running"] == 0;
        queues.as_array()?.iter().all(is_empty).then_some(())
    });
}

/// Lines of `RUN FENCE …`: once a later fence of a run has spoken, an earlier one is silent.
pub fn no_fence_speaks_after_a_later_one<'a>(lines: impl Iterator<Item = &'a str>) {
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    for line in lines {
        let mut words = line.split(' ');
        let (Some(run), Some(fence)) = (words.next(), words.next()) else {
            panic!("half a line: {line}");
        };
        let fence = fence.parse().unwrap();
        let known = newest.entry(run).or_insert(fence);
        assert!(fence >= *known, "{line}: after fence {known} had started");
        *known = fence;
    }
}
