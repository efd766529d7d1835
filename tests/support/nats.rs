//! A real nats-server with JetStream, on loopback, with a store of its own.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

#[path = "ports.rs"]
pub mod ports;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct NatsServer {
    dir: TempDir,
    host: Ipv4Addr,
    port: u16,
    child: Option<Child>,
}

/// The program.
pub fn binary() -> PathBuf {
    let named = std::env::var_os("NATS_SERVER_BIN").map(PathBuf::from);
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/nats-server");
    let binary = named.unwrap_or(tools);
    assert!(
        binary.exists(),
        "there is no nats-server at {}: run tests/tools/nats-server, or tests/run",
        binary.display()
    );
    binary
}

impl NatsServer {
    /// A server with JetStream and its defaults.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// A server with these lines in its configuration.
    pub fn start_with(more: &str) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, more)
    }

    /// The same, at another address of this machine.
    pub fn start_at(host: Ipv4Addr, more: &str) -> Self {
        // Another program may take it a moment later: then another is tried.
        for _ in 0..10 {
            let port = ports::free(host);
            let dir = tempfile::tempdir().unwrap();
            fs::write(
                dir.path().join("nats.conf"),
                config(dir.path(), (host, port), more),
            )
            .unwrap();
            let child = Some(spawn(dir.path()));
            let mut server = Self {
                dir,
                host,
                port,
                child,
            };
            if server.answers() {
                return server;
            }
        }
        panic!("nats-server does not start");
    }

    /// Servers that replicate, named `n0`, `n1` and so on. They may need a while to find each other.
    pub fn cluster(size: usize) -> Vec<Self> {
        Self::cluster_with(size, "")
    }

    /// The same, with these lines in the configuration of each.
    pub fn cluster_with(size: usize, more: &str) -> Vec<Self> {
        let ports: Vec<_> = (0..2 * size)
            .map(|_| ports::free(Ipv4Addr::LOCALHOST))
            .collect();
        let (clients, routes) = ports.split_at(size);
        let all: Vec<_> = routes
            .iter()
            .map(|port| format!("\"nats://127.0.0.1:{port}\""))
            .collect();
        let start = |at: usize| {
            let more = format!(
                "server_name: n{at}\ncluster {{ name: c{}, listen: \"127.0.0.1:{}\", routes: [{}] }}\n{more}",
                routes[0],
                routes[at],
                all.join(", ")
            );
            let dir = tempfile::tempdir().unwrap();
            let (host, port) = (Ipv4Addr::LOCALHOST, clients[at]);
            fs::write(
                dir.path().join("nats.conf"),
                config(dir.path(), (host, port), &more),
            )
            .unwrap();
            let child = Some(spawn(dir.path()));
            Self {
                dir,
                host,
                port,
                child,
            }
        };
        let mut servers: Vec<_> = (0..size).map(start).collect();
        for server in &mut servers {
            assert!(server.answers(), "a server of the cluster does not start");
        }
        servers
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("nats://{}:{}", self.host, self.port)
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("nats.log")).unwrap_or_default()
    }

    /// Whether it stores this stream.
    pub fn has_stream(&self, name: &str) -> bool {
        let accounts = fs::read_dir(self.dir.path().join("store/jetstream"));
        let mut accounts = accounts.into_iter().flatten().flatten();
        accounts.any(|account| account.path().join("streams").join(name).exists())
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Removes what a server that does not run has stored.
    pub fn wipe(&mut self) {
        assert!(self.child.is_none(), "it runs");
        fs::remove_dir_all(self.dir.path().join("store")).unwrap();
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The same port, the same store.
    pub fn restart(&mut self) {
        self.kill9();
        self.child = Some(spawn(self.dir.path()));
        assert!(self.answers(), "nats-server does not come up again");
    }

    /// Reads its configuration again, with these lines in place of those it was started with.
    pub fn reconfigure(&self, more: &str) {
        let text = config(self.dir.path(), (self.host, self.port), more);
        fs::write(self.dir.path().join("nats.conf"), text).unwrap();
        self.signal(rustix::process::Signal::HUP);
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.child.as_ref().unwrap().id();
        let pid = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.unwrap(), signal).unwrap();
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child
            .as_mut()
            .is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Asks the JetStream API as any client could.
    pub fn api(&self, subject: &str, body: &str) -> serde_json::Value {
        let mut stream = TcpStream::connect((self.host, self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("PUB $JS.API.{subject} inbox {}", body.len());
        write!(
            stream,
            "CONNECT {{\"verbose\":false}}\r\nSUB inbox 1\r\n{head}\r\n{body}\r\n"
        )
        .unwrap();
        let mut lines = std::io::BufReader::new(stream);
        loop {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
            assert!(!line.is_empty(), "nats-server closed the connection");
            let Some(size) = line
                .strip_prefix("MSG ")
                .and_then(|msg| msg.rsplit(' ').next())
            else {
                continue;
            };
            let mut answer = vec![0; size.trim().parse().unwrap()];
            std::io::Read::read_exact(&mut lines, &mut answer).unwrap();
            let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(answer.get("error"), None, "{answer}");
            return answer;
        }
    }

    /// Gives a stream other settings.
    pub fn edit_stream(&self, name: &str, settings: &serde_json::Value) {
        let mut info = self.api(&format!("STREAM.INFO.{name}"), "");
        let mut config = info["config"].take();
        let settings = settings.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(settings);
        self.api(&format!("STREAM.UPDATE.{name}"), &config.to_string());
    }

    /// What lies under a key of the state bucket, if it is JSON.
    pub fn state(&self, key: &str) -> serde_json::Value {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let which = serde_json::json!({ "last_by_subj": format!("$KV.ORCH_STATE.{key}") });
        let answer = self.api("STREAM.MSG.GET.KV_ORCH_STATE", &which.to_string());
        let data = answer["message"]["data"].as_str().unwrap_or_default();
        serde_json::from_slice(&STANDARD.decode(data).unwrap()).unwrap_or_default()
    }

    /// Publishes bytes as any client could.
    pub fn publish(&self, subject: &str, payload: &[u8]) {
        let mut stream = TcpStream::connect((self.host, self.port)).unwrap();
        write!(
            stream,
            "CONNECT {{\"verbose\":false}}\r\nPUB {subject} {}\r\n",
            payload.len()
        )
        .unwrap();
        stream.write_all(payload).unwrap();
        stream.write_all(b"\r\nPING\r\n").unwrap();
        // Its answer to PING says that it has read what was before it.
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while !seen.windows(4).any(|window| window == b"PONG") {
            let read = std::io::Read::read(&mut stream, &mut buffer).unwrap();
            assert!(read > 0, "nats-server closed the connection");
            seen.extend_from_slice(&buffer[..read]);
        }
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "polls a real server, with a deadline"
    )]
    fn answers(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let ended = self
                .child
                .as_mut()
                .is_none_or(|child| child.try_wait().unwrap().is_some());
            if ended {
                return false;
            }
            if TcpStream::connect((self.host, self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

/// `more` may hold a `jetstream` block of its own, with another place for the store.
fn config(dir: &Path, (host, port): (Ipv4Addr, u16), more: &str) -> String {
    let store = dir.join("store");
    let jetstream = if more.contains("jetstream") {
        ""
    } else {
        "jetstream {}"
    };
    let store = match more.contains("store_dir") {
        true => String::new(),
        false => format!("store_dir: \"{}\"", store.display()),
    };
    format!("listen: \"{host}:{port}\"\n{store}\n{jetstream}\n{more}\n")
}

fn spawn(dir: &Path) -> Child {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("nats.log"))
        .unwrap();
    Command::new(binary())
        .arg("-c")
        .arg(dir.join("nats.conf"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill9();
    }
}
