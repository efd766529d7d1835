//! A server with the shipped configuration, and users of all its roles.

use std::{collections::BTreeMap, fs, path::PathBuf};

use super::support::{
    Installation,
    nats::{self, NatsServer},
};

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

/// Whose accounts the users are in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Accounts {
    /// As the shipped file has it: each role its own.
    Own,
    /// One for all, with the same permissions: what permissions alone hold.
    One,
}

impl Shipped {
    pub fn start() -> Self {
        Self::start_in(Accounts::Own)
    }

    pub fn start_in(accounts: Accounts) -> Self {
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
        let own = as_the_server_needs(&config(&keys));
        let server = NatsServer::start_with(&match accounts {
            Accounts::Own => own.replacen("users: [{", &format!("users: [{ADMIN}, {{"), 1),
            Accounts::One => in_one_account(&own),
        });
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

    /// A client of this role.
    pub async fn connected(&self, role: &str) -> async_nats::Client {
        let seed = fs::read_to_string(&self.seeds[role]).unwrap();
        let options = async_nats::ConnectOptions::with_nkey(seed.trim().to_owned());
        let options = options.custom_inbox_prefix(format!("_INBOX_{role}"));
        options.connect(self.server.url()).await.unwrap()
    }

    /// A client that may do everything with what is stored; no part of the shipped file.
    pub async fn admin(&self) -> async_nats::Client {
        let options =
            async_nats::ConnectOptions::with_user_and_password("admin".into(), "admin".into());
        options.connect(self.server.url()).await.unwrap()
    }
}

const ADMIN: &str = "{ user: admin, password: admin }";

/// Whether it is a server 2.9.
pub fn is_old() -> bool {
    let version = std::process::Command::new(nats::binary())
        .arg("--version")
        .output()
        .unwrap();
    String::from_utf8_lossy(&version.stdout).contains("v2.9.")
}

/// What the file says has to be changed for a server 2.9: it knows no `sync_interval`, and workers read by `MSG.GET`.
fn as_the_server_needs(config: &str) -> String {
    if !is_old() {
        return config.to_owned();
    }
    let mut text = config.replace("\n  sync_interval: always\n", "\n");
    let read = ["ORCH_JOBS", "KV_ORCH_RUNS", "KV_ORCH_LOCKS"];
    let read = read
        .iter()
        .chain(&["KV_ORCH_WORKERS", "KV_ORCH_STATE"])
        .map(|stream| format!("$JS.API.STREAM.MSG.GET.{stream}"));
    for queue in ["default", "high"] {
        let last = format!("\"_INBOX_worker_{queue}.>\"\n");
        let may: String = read
            .clone()
            .map(|subject| format!("\"{subject}\"\n"))
            .collect();
        assert!(text.contains(&last), "{last}");
        text = text.replacen(&last, &format!("{last}{may}"), 1);
        let first = format!("{{ service: {{ account: ORCH, subject: \"orch.dead.{queue}\" }} }}\n");
        let imports: String = read
            .clone()
            .map(|subject| format!("{{ service: {{ account: ORCH, subject: \"{subject}\" }} }}\n"))
            .collect();
        assert!(text.contains(&first), "{first}");
        text = text.replacen(&first, &format!("{first}{imports}"), 1);
    }
    text
}

/// The same users with the same permissions, all of them in one account.
fn in_one_account(config: &str) -> String {
    let (head, accounts) = config.split_once("\naccounts {").unwrap();
    let users = accounts.split("users: [{").skip(1);
    let users: String = users
        .map(|rest| format!("{{{}}}\n", rest.split_once("}]").unwrap().0))
        .collect();
    assert_eq!(users.matches("nkey").count(), ROLES.len());
    format!("{head}\nauthorization {{ users: [\n{ADMIN}\n{users}] }}\n")
}

/// What each role but beat may publish and what its account imports, in the order of the file.
pub fn lists(config: &str) -> Vec<(Vec<String>, Vec<String>)> {
    let code: Vec<_> = config
        .lines()
        .map(|line| line.split('#').next().unwrap())
        .collect();
    let code = code.join("\n");
    let quoted = |text: &str| -> Vec<String> {
        let parts = text.split('"').skip(1).step_by(2);
        parts.map(str::to_owned).collect()
    };
    let between = |text: &str, from: &str, to: &str| {
        let (_, rest) = text.split_once(from).unwrap();
        quoted(rest.split_once(to).unwrap().0)
    };
    // The first is beat, whose account exports.
    let roles = code.split("users: [{").skip(2);
    roles
        .map(|role| {
            let may = between(role, "publish: [", "]");
            (may, between(role, "imports: [", "]"))
        })
        .collect()
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
