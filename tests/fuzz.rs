//! A short fuzzing run on stable Rust: the properties of `fuzz/` over mutations of its seeds. The
//! run is the same every time but for `FUZZ_SEED`; `FUZZ_CASES` makes it longer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

#[path = "../fuzz/properties.rs"]
mod properties;

use std::{fs, path::Path};

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// Texts that mean something where they are put.
const WORDS: [&str; 48] = [
    "[",
    "]",
    "{",
    "}",
    "\"",
    "\"\"\"",
    "'",
    "=",
    ".",
    ",",
    "\n",
    "#",
    "\\",
    "\0",
    "\u{feff}",
    "ö",
    "*",
    "*/",
    "-",
    "/",
    "L",
    "LW",
    "#5",
    "@yearly",
    "60",
    "0",
    "7",
    "31",
    "FEB",
    "sun",
    "99999",
    "-1",
    "1e9",
    "true",
    "2026-12-24",
    "every",
    "cron",
    "at",
    "anchor",
    "\"last_success\"",
    "[job.x]\n",
    "[defaults]\n",
    "[blackout.b]\n",
    "blackout = \"b\"\n",
    "\"1h\"",
    "timezone = \"Europe/Berlin\"\n",
    "overlap = \"queue\"\n",
    "retry = { attempts = 3 }\n",
];

#[derive(Debug, Clone)]
enum Mutation {
    Insert(prop::sample::Index, usize),
    Delete(prop::sample::Index, usize),
    Replace(prop::sample::Index, char),
    Repeat(prop::sample::Index, usize),
    Splice(prop::sample::Index, prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        (place(), 0..WORDS.len()).prop_map(|(at, word)| Mutation::Insert(at, word)),
        (place(), 1_usize..20).prop_map(|(at, length)| Mutation::Delete(at, length)),
        (place(), any::<char>()).prop_map(|(at, with)| Mutation::Replace(at, with)),
        (place(), 1_usize..40).prop_map(|(at, length)| Mutation::Repeat(at, length)),
        (place(), place()).prop_map(|(at, other)| Mutation::Splice(at, other)),
    ]
}

fn mutate(text: &mut Vec<char>, mutation: &Mutation, seeds: &[String]) {
    let place = |at: &prop::sample::Index, text: &[char]| at.index(text.len() + 1);
    match mutation {
        Mutation::Insert(at, word) => {
            let at = place(at, text);
            text.splice(at..at, WORDS[*word].chars());
        }
        Mutation::Delete(at, length) => {
            let at = place(at, text);
            let end = (at + length).min(text.len());
            text.drain(at..end);
        }
        Mutation::Replace(at, with) => {
            let at = place(at, text);
            if let Some(c) = text.get_mut(at) {
                *c = *with;
            }
        }
        Mutation::Repeat(at, length) => {
            let at = place(at, text);
            let end = (at + length).min(text.len());
            let part = text[at..end].to_vec();
            text.splice(end..end, part);
        }
        Mutation::Splice(at, other) => {
            let at = place(at, text);
            let other: Vec<char> = seeds[other.index(seeds.len())].chars().collect();
            text.truncate(at);
            text.extend(&other[at.min(other.len())..]);
        }
    }
}

fn seeds(target: &str) -> Vec<String> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = fs::read_dir(corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let seeds: Vec<_> = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    assert!(seeds.len() >= 10, "the seeds are gone");
    seeds
}

fn number(name: &str, default: u64) -> u64 {
    let asked = std::env::var(name).ok();
    asked
        .and_then(|asked| asked.parse().ok())
        .unwrap_or(default)
}

fn run(target: &str, cases: u64, property: fn(&str)) {
    let seeds = seeds(target);
    for seed in &seeds {
        property(seed);
    }
    let seed = number("FUZZ_SEED", 1);
    println!("FUZZ_SEED={seed}");
    let config = Config {
        cases: u32::try_from(number("FUZZ_CASES", cases)).unwrap(),
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let inputs = (
        any::<prop::sample::Index>(),
        prop::collection::vec(mutation(), 1..12),
    );
    let done = runner.run(&inputs, |(start, mutations)| {
        let mut text: Vec<char> = seeds[start.index(seeds.len())].chars().collect();
        for mutation in &mutations {
            mutate(&mut text, mutation, &seeds);
        }
        let text: String = text.into_iter().collect();
        property(&text);
        Ok(())
    });
    if let Err(error) = done {
        panic!("{error}");
    }
}

#[test]
fn schedules() {
    run("schedules", 3_000, properties::schedule);
}

#[test]
fn cron() {
    run("cron", 3_000, properties::cron);
}

#[test]
fn envelope() {
    run("envelope", 10_000, properties::envelope);
}

#[test]
fn state() {
    run("state", 10_000, properties::state);
}

#[test]
fn probes() {
    run("probes", 1_000, properties::probes);
}

#[test]
fn answers() {
    run("answers", 1_000, properties::answer);
}

#[test]
fn policy() {
    run("policy", 3_000, properties::policy);
}
