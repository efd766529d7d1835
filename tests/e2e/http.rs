//! Jobs that are requests.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::support::{Installation, wait_for};

/// Answers by path; tells its port first, then each request on a line.
const SERVER: &str = r#"
import http.server, json, sys, time
seen = {}
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        length = int(self.headers.get("Content-Length") or 0)
        sent = self.rfile.read(length).decode()
        path = self.path.split("?")[0]
        seen[path] = seen.get(path, 0) + 1
        if path == "/echo":
            told = {"method": self.command, "path": self.path, "body": sent,
                    "type": self.headers.get("Content-Type"), "token": self.headers.get("X-Token"),
                    "traced": bool(self.headers.get("traceparent")),
                    "headers": {name.lower(): value for name, value in self.headers.items()}}
            self.answer(200, json.dumps(told).encode(), Content_Type="application/json")
        elif path == "/busy" and seen[path] == 1:
            self.answer(503, b"later", Retry_After="3600")
        elif path == "/flaky" and seen[path] < 3:
            self.answer(500, b"no")
        elif path == "/gone":
            self.answer(404, b"gone")
        elif path == "/loop":
            self.answer(302, b"", Location="/loop")
        elif path == "/moved":
            self.answer(302, b"", Location="/echo")
        elif path.startswith("/away"):
            _, _, status, port = path.split("/")
            self.answer(int(status), b"", Location=f"http://127.0.0.1:{port}/echo")
        elif path == "/big":
            self.answer(200, b"x" * 3_000_000)
        elif path == "/slow":
            time.sleep(30)
        else:
            self.answer(200, b"all is well")
    do_POST = do_PUT = do_GET
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
if len(sys.argv) > 1:
    import ssl
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(certificate: &[&str]) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", SERVER])
            .args(certificate)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap();
        Self { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn jobs(port: u16) -> String {
    let url = format!("http://127.0.0.1:{port}");
    format!(
        r#"
[defaults]
retry = {{ attempts = 4, backoff = "fixed", initial = "50ms", not_on_status = [404] }}
[job.health]
http = {{ url = "{url}/health", expect_body = "is well" }}
[job.wrong]
retry = {{ attempts = 1 }}
http = {{ url = "{url}/health", expect_body = "is ill" }}
[job.hook]
args = {{ what = "a b&c", n = 3 }}
http = {{ url = "{url}/echo?q={{arg.what}}", method = "POST", headers = {{ X-Token = "t-{{arg.n}}" }}, body = {{ text = "say {{arg.what}}", list = [1, true] }} }}
[job.any]
http = {{ url = "{{arg.url}}" }}
[job.flaky]
http = {{ url = "{url}/flaky" }}
[job.gone]
http = {{ url = "{url}/gone" }}
[job.teapot]
http = {{ url = "{url}/gone", expect_status = [404, 410] }}
[job.busy]
http = {{ url = "{url}/busy" }}
[job.loop]
retry = {{ attempts = 1 }}
http = {{ url = "{url}/loop", redirects = 3 }}
[job.moved]
http = {{ url = "{url}/moved" }}
[job.unmoved]
http = {{ url = "{url}/moved", redirects = 0, expect_status = [302] }}
[job.big]
retry = {{ attempts = 1 }}
http = {{ url = "{url}/big", max_body = "1 MiB" }}
[job.slow]
retry = {{ attempts = 1 }}
timeout = "500ms"
http = {{ url = "{url}/slow" }}
[job.nobody]
retry = {{ attempts = 1 }}
http = {{ url = "http://127.0.0.1:1/" }}
"#
    )
}

fn ended(here: &Installation, args: &[&str]) -> Value {
    let args = [&["-o", "json", "run"], args, &["--wait"]].concat();
    serde_json::from_str(&here.run(&args).stdout).unwrap()
}

#[test]
fn requests_are_jobs() {
    let server = Server::start(&[]);
    let here = Installation::new();
    here.schedule("a.toml", &jobs(server.port));
    let _up = here.up(&[]);
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(13).cloned());

    let run = ended(&here, &["health"]);
    assert_eq!(run["state"], "succeeded", "{run}");
    assert_eq!(run["attempts"][0]["exit"]["status"], 200);
    let id = run["run_id"].as_str().unwrap();
    assert_eq!(here.run(&["logs", id]).stdout, "all is well");

    let run = ended(&here, &["wrong"]);
    assert_eq!(run["state"], "failed", "{run}");
    assert!(
        run["reason"]
            .as_str()
            .unwrap()
            .contains("does not contain `is ill`"),
        "{run}"
    );

    let run = ended(&here, &["hook"]);
    let told = &run["result"]["body"];
    assert_eq!(told["method"], "POST", "{run}");
    assert_eq!(told["path"], "/echo?q=a%20b%26c");
    assert_eq!(told["token"], "t-3");
    assert_eq!(told["type"], "application/json");
    assert_eq!(told["traced"], true);
    let body: Value = serde_json::from_str(told["body"].as_str().unwrap()).unwrap();
    assert_eq!(
        body,
        serde_json::json!({ "text": "say a b&c", "list": [1, true] })
    );

    let url = format!("url=http://127.0.0.1:{}/echo?a=1&b=2", server.port);
    let run = ended(&here, &["any", "--arg", &url]);
    assert_eq!(run["result"]["body"]["path"], "/echo?a=1&b=2", "{run}");
    // A user in the URL gets in as with every client: `us:er`, `pa ss`.
    let url = format!("url=http://us%3Aer:pa%20ss@127.0.0.1:{}/echo", server.port);
    let run = ended(&here, &["any", "--arg", &url]);
    let sent = &run["result"]["body"]["headers"];
    assert_eq!(sent["authorization"], "Basic dXM6ZXI6cGEgc3M=", "{run}");

    let run = ended(&here, &["flaky"]);
    assert_eq!(
        (&run["state"], &run["attempts_used"]),
        (&"succeeded".into(), &3.into())
    );

    let run = ended(&here, &["gone"]);
    assert_eq!(
        (&run["state"], &run["attempts_used"]),
        (&"failed".into(), &1.into()),
        "{run}"
    );
    assert_eq!(run["reason"], "status 404");
    assert_eq!(ended(&here, &["teapot"])["state"], "succeeded");
    assert_eq!(ended(&here, &["moved"])["state"], "succeeded");
    assert_eq!(ended(&here, &["unmoved"])["state"], "succeeded");

    let id = here.run(&["run", "busy"]).stdout.trim().to_owned();
    let run = wait_for("the first answer", || {
        let run = here.try_json(&["show", &id])?;
        (run["state"] == "retrying").then_some(run)
    });
    let time =
        |key: &Value| -> chrono::DateTime<chrono::Utc> { key.as_str().unwrap().parse().unwrap() };
    let wait = time(&run["next_attempt_at"]) - time(&run["attempts"][0]["finished_at"]);
    assert_eq!(wait.num_seconds(), 3600, "{run}");

    for (job, part) in [
        ("loop", "redirect"),
        ("big", "more than 1048576 bytes"),
        ("slow", "no whole answer within 500ms"),
        ("nobody", "cannot connect"),
    ] {
        let run = ended(&here, &[job]);
        assert_eq!(run["state"], "failed", "{run}");
        let reason = run["reason"].as_str().unwrap();
        assert!(reason.contains(part), "{job}: {reason}");
    }

    let slow = here.run(&["run", "slow"]).stdout.trim().to_owned();
    wait_for("its start", || {
        (here.try_json(&["show", &slow])?["state"] == "running").then_some(())
    });
    let cancelled = here.run(&["cancel", &slow, "--wait"]);
    assert!([0, 7].contains(&cancelled.code), "{}", cancelled.stderr);
}

#[test]
fn what_a_job_sends_stays_with_who_it_is_for() {
    let (first, second) = (Server::start(&[]), Server::start(&[]));
    let here = Installation::new();
    fs::create_dir(here.path("credentials")).unwrap();
    fs::write(here.path("credentials/site"), "hunter2").unwrap();
    let job = |name: &str, path: &str, more: &str| {
        format!(
            "[job.{name}]\nretry = {{ attempts = 1 }}\n{more}http = {{ url = \"http://127.0.0.1:{}/{path}\", \
             method = \"POST\", body = {{ n = 1 }}, headers = {{ X-Api-Key = \"key-of-first\", Authorization = \"Basic abc\", \
             Accept = \"application/json\", User-Agent = \"crawler\" }} }}\n",
            first.port
        )
    };
    let to = second.port;
    let secret = "credential = \"site\"\n";
    let jobs = [
        job("near", "moved", ""),
        job("away", &format!("away/302/{to}"), ""),
        job("kept", &format!("away/307/{to}"), ""),
        job("secret", &format!("away/302/{to}"), secret),
        job("stays", "moved", secret),
    ];
    here.schedule("a.toml", &jobs.concat());
    let _up = here.up(&["--credentials-dir", "credentials"]);
    wait_for("the jobs", || here.try_json(&["jobs"])?.get(4).cloned());

    let told = |job: &str| {
        let mut run = ended(&here, &[job]);
        assert_eq!(run["state"], "succeeded", "{run}");
        run["result"]["body"].take()
    };
    for job in ["near", "stays"] {
        let near = told(job);
        assert_eq!(near["headers"]["x-api-key"], "key-of-first", "{near}");
        assert_eq!(near["headers"]["authorization"], "Basic abc");
        assert_eq!(near["method"], "GET");
    }
    for (job, method, body, content) in [
        ("away", "GET", "", Value::Null),
        ("kept", "POST", "{\"n\":1}", "application/json".into()),
    ] {
        let away = told(job);
        assert_eq!(
            (&away["method"], &away["body"]),
            (&method.into(), &body.into())
        );
        for (name, value) in [
            ("x-api-key", Value::Null),
            ("referer", Value::Null),
            ("authorization", Value::Null),
            ("content-type", content),
            ("accept", "application/json".into()),
            ("user-agent", "crawler".into()),
        ] {
            assert_eq!(away["headers"][name], value, "{job}, {name}: {away}");
        }
        assert_eq!(away["traced"], true);
    }
    let refused = ended(&here, &["secret"]);
    assert_eq!(refused["state"], "failed", "{refused}");
    let reason = refused["reason"].as_str().unwrap();
    assert!(
        reason.contains("to another scheme, host or port"),
        "{reason}"
    );
}

/// The certificate is for 127.0.0.1, by an authority that is in no list. Its key is no secret: it is good for
/// nothing else.
const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/tls/server.pem");
const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/tls/authority.pem");

#[test]
fn certificates_are_checked() {
    let server = Server::start(&[CERTIFICATE]);
    let jobs = format!(
        "[job.secure]\nhttp = {{ url = \"https://127.0.0.1:{}/health\" }}\n",
        server.port
    );
    for (trusted, expected) in [(Some(AUTHORITY), "succeeded"), (None, "failed")] {
        let here = Installation::new();
        here.schedule("a.toml", &jobs);
        let env: Vec<_> = trusted
            .iter()
            .map(|file| ("SSL_CERT_FILE", *file))
            .collect();
        let _up = here.start_with("up", &["up"], &env);
        wait_for("the job", || here.try_json(&["jobs"])?.get(0).cloned());
        let run = ended(&here, &["secure"]);
        assert_eq!(run["state"], expected, "{run}");
        if trusted.is_none() {
            let reason = run["reason"].as_str().unwrap();
            assert!(reason.contains("certificate"), "{reason}");
        }
    }
}
