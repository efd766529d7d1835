//! A server with the shipped configuration, and users of all its roles.

use std::{collections::BTreeMap, fs, path::PathBuf};

use super::support::{Installation, nats::NatsServer};

pub const ROLES: [&str; 5] = [
    "beat",
    "worker_default",
    "worker_high",
    "operator",
    "viewer",
];

/// The shipped server, and what its users get in with.
pub struct Shipped {
    pub server: NatsServer,
    pub seeds: BTreeMap<&'static str, PathBuf>,
    _dir: tempfile::TempDir,
}

impl Shipped {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut keys = String::new();
        let mut seeds = BTreeMap::new();
        for role in ROLES {
            let file = dir.path().join(format!("{role}.nk"));
            // As the head of the file says.
            let made = Installation::new().run(&["nkey", file.to_str().unwrap()]);
            assert_eq!(made.code, 0, "{}", made.stderr);
            keys.push_str(&format!("NKEY_{}: {}", role.to_uppercase(), made.stdout));
            seeds.insert(role, file);
        }
        let server = NatsServer::start_with(&config(&keys));
        Self {
            server,
            seeds,
            _dir: dir,
        }
    }

    /// The environment of a process in this role.
    pub fn env(&self, role: &str) -> Vec<(&'static str, String)> {
        vec![
            ("NATS_URL", self.server.url()),
            ("NATS_NKEY", self.seeds[role].to_str().unwrap().to_owned()),
            ("NATS_INBOX_PREFIX", format!("_INBOX_{role}")),
        ]
    }
}

/// The shipped file, but for where it listens and stores, with these keys.
pub fn config(keys: &str) -> String {
    let shipped = fs::read_to_string("deploy/nats-server.conf").unwrap();
    let own = ["listen:", "http:", "store_dir:"];
    let lines = shipped.lines().filter(|line| {
        let line = line.trim_start();
        !own.iter().any(|name| line.starts_with(name))
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let included = text.replace("include \"nats-keys.conf\"", keys);
    assert_ne!(text, included, "the keys are not included any more");
    included
}
