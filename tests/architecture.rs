//! Dependencies point one way. This reads the imports of every source file and compares them with
//! the arrows of `docs/architecture.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What each module may use of the crate, itself aside.
const ARROWS: [(&str, &[&str]); 17] = [
    ("job", &[]),
    ("run", &["job"]),
    ("plan", &["job", "run"]),
    ("clock", &[]),
    ("point", &[]),
    ("chance", &["clock"]),
    ("health", &["clock"]),
    ("manager", &["clock", "health"]),
    ("store", &["clock"]),
    ("broker", &["job", "run", "clock", "store"]),
    ("schedules", &["job", "run", "plan", "clock"]),
    ("exec", &["job", "run", "broker", "clock"]),
    (
        "beat",
        &[
            "job",
            "run",
            "plan",
            "clock",
            "chance",
            "store",
            "broker",
            "schedules",
            "exec",
            "health",
        ],
    ),
    (
        "worker",
        &[
            "job", "run", "plan", "clock", "chance", "broker", "exec", "health",
        ],
    ),
    (
        "bench",
        &["job", "run", "clock", "broker", "exec", "worker"],
    ),
    (
        "ops",
        &["job", "run", "plan", "clock", "broker", "schedules"],
    ),
    (
        "cli",
        &[
            "job",
            "run",
            "plan",
            "clock",
            "store",
            "broker",
            "schedules",
            "exec",
            "beat",
            "worker",
            "ops",
            "bench",
            "health",
            "manager",
        ],
    ),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let named = files.into_iter().map(|path| {
        let relative = path
            .strip_prefix(&root)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let module = relative.split(['/', '.']).next().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        (module, path, text)
    });
    named.collect()
}

/// The modules of this crate that a file names: `crate::x` and the members of `use crate::{…}`.
fn used(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let word = |text: &str| -> String {
        let name = text
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_');
        name.collect()
    };
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(word(rest));
            continue;
        };
        let (mut depth, mut start) = (0, true);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && c.is_alphabetic() => {
                    names.insert(word(&group[at..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    names
}

#[test]
fn imports_follow_the_arrows() {
    let arrows: BTreeMap<_, _> = ARROWS.into_iter().collect();
    let mut wrong = Vec::new();
    for (module, path, text) in all() {
        let Some(allowed) = arrows.get(module.as_str()) else {
            continue;
        };
        for name in used(&text) {
            let known = arrows.contains_key(name.as_str());
            if known && name != module && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{}: {module} must not use {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_place() {
    let arrows: BTreeMap<_, _> = ARROWS.into_iter().collect();
    let modules: BTreeSet<_> = all().into_iter().map(|(module, ..)| module).collect();
    let placed =
        |name: &String| arrows.contains_key(name.as_str()) || name == "lib" || name == "main";
    let homeless: Vec<_> = modules.iter().filter(|name| !placed(name)).collect();
    assert!(homeless.is_empty(), "not in ARROWS: {homeless:?}");
}

#[test]
fn deciding_is_pure() {
    let banned = [
        "async fn",
        "tokio::",
        "std::fs",
        "std::net",
        "std::env",
        "tracing::",
        "clock::",
        "println!",
        "static mut",
    ];
    for (module, path, text) in all() {
        if !["job", "plan", "run"].contains(&module.as_str()) {
            continue;
        }
        for word in banned {
            assert!(!text.contains(word), "{} uses {word}", path.display());
        }
    }
}

/// What `tests/simulation.rs` needs to live a seed twice in the same way.
#[test]
fn beat_and_worker_can_be_simulated() {
    let chance = ["Uuid::new_v4", "Uuid::now_v7", "rand::"];
    let mut wrong = Vec::new();
    for (module, path, text) in all() {
        if !["beat", "worker"].contains(&module.as_str()) {
            continue;
        }
        let mut wrong_at = |what: &str| wrong.push(format!("{}: {what}", path.display()));
        for word in chance {
            if text.contains(word) {
                wrong_at(&format!("draws by {word}; use crate::chance"));
            }
        }
        for (at, _) in text.match_indices("select! {") {
            if !text[at + "select! {".len()..]
                .trim_start()
                .starts_with("biased;")
            {
                wrong_at("a `select!` without `biased;`: its order would be drawn by tokio");
            }
        }
        for (at, _) in text.match_indices("spawn(") {
            let rest = &text[at + "spawn(".len()..];
            if !rest.starts_with("clock::same(") {
                wrong_at("a task is spawned without `clock::same`: it would leave its world");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn one_owner_for_each_outside_crate() {
    let owners = [
        ("cron::", "src/job/cron"),
        ("sled::", "src/store"),
        ("async_nats::", "src/broker/nats"),
        ("sd_notify::", "src/manager.rs"),
    ];
    for (_, path, text) in all() {
        for (name, owner) in owners {
            let imports = text.lines().any(|line| {
                let line = line.trim_start();
                line.starts_with(&format!("use {name}")) || line.contains(&format!(" ::{name}"))
            });
            let place = path.to_string_lossy().contains(owner);
            assert!(!imports || place, "{} imports {name}", path.display());
        }
    }
}

#[test]
fn unsafe_code_has_one_home() {
    let homes: Vec<_> = all()
        .into_iter()
        .filter(|(_, _, text)| text.contains("unsafe {") || text.contains("unsafe fn"))
        .map(|(_, path, _)| path)
        .collect();
    assert!(
        homes
            .iter()
            .all(|path| path.to_string_lossy().contains("src/exec/start")),
        "{homes:?}"
    );
}
