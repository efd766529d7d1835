//! crontab(5) → drafts.
//!
//! Settings hold for the entries below them, as in cron. What cron does and we do not by default is
//! said once, in `[defaults]`: it starts a job though its last run goes on, and it does not catch up.

mod line;

use super::{
    ImportError, Imported, Input,
    document::{Document, Draft, Note, plain_argument, text, texts},
    name::of_command,
    write::{Places, finish},
};
use crate::job::Template;
use line::{Entry, Line};

/// A comment above an entry that is longer stays a comment, in characters.
const DESCRIPTION: usize = 120;

/// What to do about a file without an entry.
const NO_CRONTAB: &str = "give a crontab: what `crontab -l` prints, or a file of /etc/cron.d";

/// Whether entries have a user before the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// No: the crontab of one user.
    None,
    /// Yes: /etc/crontab and /etc/cron.d.
    Column,
}

/// Users that begin a command only where somebody forgot `--system`.
const KNOWN_USERS: [&str; 12] = [
    "root", "www-data", "nobody", "daemon", "postgres", "mysql", "backup", "nginx", "apache",
    "ubuntu", "munin", "logcheck",
];

/// What holds for the entries that follow.
#[derive(Default)]
struct State {
    document: Document,
    env: Vec<(String, String)>,
    zone: Option<String>,
    shell: Option<String>,
    home: Option<String>,
    /// Comments for the next job.
    remarks: Vec<String>,
    /// The comment that the last lines are.
    block: Vec<String>,
}

pub(super) fn read(input: &Input<'_>, users: Users) -> Result<Imported, ImportError> {
    let places = Places::new(input);
    let mut state = State {
        document: start(input),
        ..State::default()
    };
    let mut bad: Option<Note> = None;
    let mut good = 0;
    for (index, text) in input.text.lines().enumerate() {
        let number = index + 1;
        match line::read(number, text, users) {
            Line::Blank => state.remarks.append(&mut state.block),
            Line::Comment(comment) => state.block.push(comment.trim_end().to_owned()),
            Line::Setting { name, value } => state.set(number, name, value),
            Line::Entry(entry) => {
                good += 1;
                state.entry(number, &entry, users);
            }
            Line::Bad(note) => {
                bad.get_or_insert_with(|| note.clone());
                state.bad(number, text.trim(), note);
            }
        }
    }
    if good == 0 {
        let mut note = bad.unwrap_or_else(|| Note::new(1, "there is no entry in this crontab"));
        note.help.get_or_insert_with(|| NO_CRONTAB.to_owned());
        return Err(places.refuse(&note));
    }
    state.remarks.append(&mut state.block);
    let mut document = state.document;
    document.tail = state.remarks;
    share_env(&mut document);
    Ok(finish(&places, document, input.now))
}

fn start(input: &Input<'_>) -> Document {
    let mut document = Document::new("crontab", input);
    document.head = vec![
        "cron starts jobs in the home directory of their user: set working_dir where it matters."
            .to_owned(),
        "cron mails what jobs print; here `orchestrator logs` has it.".to_owned(),
    ];
    if input.timezone.is_none() {
        let message = "cron reads its schedules in the zone of its machine, which a crontab does not \
                       name: taken as UTC";
        document.notes.push(
            Note::new(1, message).with_help("import with --timezone, for example Europe/Berlin"),
        );
        document.explain_zone(&format!("{message}; --timezone sets another"));
    } else {
        document.explain_zone("The zone of the machine that cron ran on.");
    }
    document.set_default(
        "overlap",
        text("allow"),
        "cron starts a job though its last run still goes on; \"skip\" is safer where jobs do not bear that.",
    );
    document.set_default(
        "catch_up",
        text("skip"),
        "cron does not make up for runs that were due while it was down; \"latest\" runs the newest one.",
    );
    document
}

impl State {
    fn set(&mut self, number: usize, name: &str, value: &str) {
        self.remarks.append(&mut self.block);
        let lost = match name {
            "CRON_TZ" => {
                self.zone = Some(value.to_owned()).filter(|zone| !zone.is_empty());
                None
            }
            "SHELL" => {
                // Cron's default, and ours.
                self.shell = Some(value.to_owned()).filter(|shell| shell != "/bin/sh");
                self.env.retain(|(known, _)| known != name);
                if self.shell.is_some() {
                    self.put(name, value);
                }
                None
            }
            "HOME" => {
                self.home = Some(value.to_owned()).filter(|home| home.starts_with('/'));
                self.put(name, value);
                None
            }
            "MAILTO" if value.is_empty() => None,
            "MAILTO" | "MAILFROM" => {
                Some("orchestrator sends no mail; `orchestrator logs` has the output")
            }
            "CONTENT_TYPE" | "CONTENT_TRANSFER_ENCODING" => Some("it is for the mails of cron"),
            "RANDOM_DELAY" => Some("the jobs start without a random delay"),
            "LOGNAME" => Some("jobs run as the user of the worker"),
            "TZ" => {
                self.put(name, value);
                Some(
                    "it is in the environment of the jobs, as with cron, whose schedules it does not \
                     change; if it was meant for them, set `timezone`",
                )
            }
            _ => {
                self.put(name, value);
                None
            }
        };
        if let Some(why) = lost {
            let message = format!("{name}={value}: {why}");
            self.remarks
                .push(format!("not carried over: line {number}: {message}"));
            self.document.notes.push(Note::new(number, message));
        }
    }

    fn put(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    fn bad(&mut self, number: usize, line: &str, note: Note) {
        self.remarks.append(&mut self.block);
        let mut draft = Draft::new(number, format!("line {number}: {line}"), "job");
        draft.remarks = std::mem::take(&mut self.remarks);
        draft.left_out = Some(note);
        self.document.drafts.push(draft);
    }

    fn entry(&mut self, number: usize, entry: &Entry<'_>, users: Users) {
        let command = line::command(entry.command);
        let mut draft = Draft::new(
            number,
            format!("line {number}"),
            of_command(&command.script),
        );
        match self.description() {
            Some(description) => draft.set("description", text(&description)),
            None => self.remarks.append(&mut self.block),
        }
        draft.remarks = std::mem::take(&mut self.remarks);
        if entry.schedule == "@reboot" {
            draft.leave_out(
                "@reboot: no schedule stands for the start of a machine",
                "start it with a systemd unit; first_run = \"now\" runs a new job once",
            );
            draft.set("first_run", text("now"));
        } else {
            draft.set("cron", text(&entry.schedule));
        }
        if let Some(zone) = &self.zone {
            draft.set("timezone", text(zone));
        }
        self.program(&mut draft, command);
        if entry.command.contains(r"\\") {
            draft.lose("Vixie's cron, as in Debian and BSD, makes one backslash of two; here they stay two");
        }
        if let Some(home) = &self.home {
            draft.set("working_dir", text(home));
        }
        for (name, value) in &self.env {
            draft.env(name, value);
        }
        about_user(&mut draft, entry, users);
        self.document.drafts.push(draft);
    }

    /// The comment right above an entry, if it is short and about it.
    fn description(&mut self) -> Option<String> {
        let lines = self.block.iter().map(|line| line.trim());
        let joined = lines.collect::<Vec<_>>().join(" ");
        let short = self.block.len() <= 2 && joined.chars().count() <= DESCRIPTION;
        let header = joined.starts_with("m h") || joined.contains("--") || joined.contains('|');
        let off = self.block.iter().any(|line| line::is_entry(line));
        let fits = short && !header && !off && joined.contains(char::is_alphabetic);
        fits.then(|| {
            self.block.clear();
            joined
        })
    }

    fn program(&self, draft: &mut Draft, command: line::Command) {
        if command.script.trim().is_empty() {
            draft.leave_out(
                "the command is empty",
                "write the command before the first `%`",
            );
        }
        let script = match &command.input {
            None => command.script,
            Some(input) if input.is_empty() => format!("{{ {}\n}} </dev/null", command.script),
            Some(input) => {
                draft
                    .explanations
                    .push("What followed the `%` is the script's here-document.".to_owned());
                let mut mark = "INPUT".to_owned();
                while input.lines().any(|line| line == mark) {
                    mark.push('_');
                }
                format!("{{ {}\n}} <<'{mark}'\n{input}{mark}", command.script)
            }
        };
        let placeholder = |name: &str| script.contains(&format!("{{{name}}}"));
        let braces = script.contains("{arg.") || Template::BUILT_IN.into_iter().any(placeholder);
        match (&self.shell, braces) {
            (None, false) => draft.set("shell", text(&script)),
            (shell, _) => {
                let shell = shell.as_deref().unwrap_or("/bin/sh");
                let argv = [
                    plain_argument(shell),
                    "-c".to_owned(),
                    plain_argument(&script),
                ];
                draft.set("command", texts(argv));
            }
        }
    }
}

fn about_user(draft: &mut Draft, entry: &Entry<'_>, users: Users) {
    let first = entry.command.split_whitespace().next().unwrap_or_default();
    match (users, entry.user) {
        (Users::Column, Some(user)) if user.contains('/') => draft.lose_with_help(
            format!("`{user}` stands in the column of users, but looks like a command"),
            "a crontab without that column is imported without --system",
        ),
        (Users::Column, Some(user)) => draft.lose_with_help(
            format!("cron ran it as the user `{user}`; here it runs as the user of the worker"),
            "give it a queue with a worker of that user",
        ),
        (Users::None | Users::Column, _) => {
            if KNOWN_USERS.contains(&first) {
                draft.lose_with_help(
                    format!("the command begins with `{first}`, which looks like a user"),
                    "a system crontab, with a column of users, is imported with --system",
                );
            }
        }
    }
}

/// What all jobs have in their environment goes to the defaults.
fn share_env(document: &mut Document) {
    let mut drafts = document
        .drafts
        .iter()
        .filter(|draft| !draft.keys.is_empty());
    let Some(first) = drafts.next() else {
        return;
    };
    let is_env = |(name, _): &&(String, String)| name.starts_with("env.");
    let mut shared: Vec<_> = first.keys.iter().filter(is_env).cloned().collect();
    let mut others = 0;
    for draft in drafts {
        others += 1;
        shared.retain(|one| draft.keys.contains(one));
    }
    if others == 0 || shared.is_empty() {
        return;
    }
    for draft in &mut document.drafts {
        draft.keys.retain(|one| !shared.contains(one));
    }
    let pairs = shared.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix("env.")?;
        Some(format!("{name} = {value}"))
    });
    let table = format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "));
    document.set_default(
        "env",
        table,
        "The variables that the crontab sets for all its entries.",
    );
}
