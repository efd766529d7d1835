//! How to get into NATS: what options, variables, systemd's credentials and contexts of the `nats`
//! command say, and which of them counts. `docs/nats.md` has the order.

mod args;
mod context;
mod layers;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use tracing::info;

pub use args::NatsArgs;
use layers::{Layer, settle};

use super::{CliError, Exit, Globals, named};
use crate::broker::nats::{self, Credentials, NatsOptions};

/// Where NATS is if nobody says otherwise.
const DEFAULT_NATS: &str = "nats://127.0.0.1:4222";

/// What `LoadCredential=` of a unit may be called so that it is used here.
mod credential {
    pub(super) const CREDS: &str = "nats.creds";
    pub(super) const NKEY: &str = "nats-nkey";
    pub(super) const USER: &str = "nats-user";
    pub(super) const PASSWORD: &str = "nats-password";
    pub(super) const TOKEN: &str = "nats-token";
    pub(super) const CA: &str = "nats-ca.pem";
    pub(super) const CERT: &str = "nats-cert.pem";
    pub(super) const KEY: &str = "nats-key.pem";
}

/// Whether NATS is named on the command line, so that it wins over a running `up`.
pub(super) fn is_asked_for(globals: &Globals) -> bool {
    globals.nats.is_some() || globals.access.nats_context.is_some()
}

/// Whether a server is named at all. The selected context of the `nats` command does not count: it may
/// be somebody's production.
pub(super) fn is_named(globals: &Globals) -> bool {
    is_asked_for(globals) || variable("NATS_URL").is_some() || variable("NATS_CONTEXT").is_some()
}

/// Where NATS is and how to get in.
pub(super) fn options(globals: &Globals) -> Result<NatsOptions, CliError> {
    let usage = |message: String| CliError::new(Exit::Usage, message);
    let layers = gather(globals).map_err(usage)?;
    let settled = settle(&layers).map_err(usage)?;
    let url = settled.url.unwrap_or_else(|| DEFAULT_NATS.to_owned());
    nats::check_url(&url).map_err(|reason| {
        usage(format!("not the URL of a NATS server: {reason}"))
            .with_help("write it like nats://host:4222; several are separated by commas")
    })?;
    check_files(&settled.credentials).map_err(usage)?;
    let defaults = NatsOptions::default();
    let inbox_prefix = settled.inbox_prefix.unwrap_or(defaults.inbox_prefix);
    check_inbox(&inbox_prefix).map_err(usage)?;
    Ok(NatsOptions {
        url,
        namespace: globals.namespace.clone(),
        replicas: usize::from(globals.replicas),
        credentials: settled.credentials,
        inbox_prefix,
        tls_first: settled.tls_first,
        ..defaults
    })
}

/// What is said where, the place that wins first.
fn gather(globals: &Globals) -> Result<Vec<Layer>, String> {
    let directory = context::directory();
    let named = |name: String| context::load(&name, directory.as_deref());
    let mut layers = vec![of_options(globals)?];
    if let Some(name) = globals.access.nats_context.clone() {
        layers.push(named(name)?);
    }
    layers.push(of_variables()?);
    if let Some(name) = variable("NATS_CONTEXT") {
        layers.push(named(name)?);
    }
    if let Some(path) = env::var_os("CREDENTIALS_DIRECTORY").filter(|path| !path.is_empty()) {
        layers.push(of_unit(Path::new(&path))?);
    }
    if layers.iter().all(|layer| layer.url.is_none())
        && let Some(name) = directory.as_deref().and_then(context::selected)
    {
        info!(target: "orchestrator::broker", context = name, "using the selected NATS context");
        layers.push(named(name)?);
    }
    Ok(layers)
}

fn of_options(globals: &Globals) -> Result<Layer, String> {
    let args = globals.access.clone();
    let mut layer = Layer {
        creds: args.nats_creds,
        nkey: args.nats_nkey.map(|path| seed_in(&path)).transpose()?,
        user: args.nats_user,
        password: secret(args.nats_password_file.as_deref())?,
        token: secret(args.nats_token_file.as_deref())?,
        ca: args.nats_ca,
        cert: args.nats_cert,
        key: args.nats_key,
        tls_first: args.nats_tls_first,
        inbox_prefix: args.nats_inbox_prefix,
        ..Layer::of("the options --nats-… or the variables ORCHESTRATOR_NATS_…")
    };
    if let Some(url) = &globals.nats {
        layer.take_url(url);
        let shows = layer
            .url
            .as_ref()
            .is_some_and(|clean| clean.len() < url.trim().len());
        if shows && is_on_the_command_line(url) {
            return Err(
                "--nats has a secret in it, which everybody on this machine can see in the list of processes: \
                 put the URL into NATS_URL, or use --nats-user and --nats-password-file"
                    .to_owned(),
            );
        }
    }
    Ok(layer)
}

fn is_on_the_command_line(url: &str) -> bool {
    let mut arguments = env::args();
    arguments.any(|argument| argument == url || argument == format!("--nats={url}"))
}

fn of_variables() -> Result<Layer, String> {
    let file = |name: &str| variable(name).map(PathBuf::from);
    let nkey = match variable("NATS_NKEY") {
        // The `nats` command has a file here; the seed itself is taken, too.
        Some(seed) if nats::check_seed(&seed).is_ok() => Some(seed),
        Some(seed) if named::is_secret(&seed) => {
            return Err(format!(
                "NATS_NKEY is a seed that is damaged, of {} characters: it has 58, without quotes and blanks",
                named::length(&seed)
            ));
        }
        Some(path) => Some(seed_in(Path::new(&path))?),
        None => None,
    };
    let mut layer = Layer {
        creds: file("NATS_CREDS"),
        nkey,
        user: variable("NATS_USER"),
        password: variable("NATS_PASSWORD"),
        token: variable("NATS_TOKEN"),
        ca: file("NATS_CA"),
        cert: file("NATS_CERT"),
        key: file("NATS_KEY"),
        inbox_prefix: variable("NATS_INBOX_PREFIX"),
        ..Layer::of("the variables NATS_…")
    };
    if let Some(url) = variable("NATS_URL") {
        layer.take_url(&url);
    }
    Ok(layer)
}

fn of_unit(directory: &Path) -> Result<Layer, String> {
    let file = |name: &str| Some(directory.join(name)).filter(|path| path.exists());
    let text = |name: &str| secret(file(name).as_deref());
    Ok(Layer {
        creds: file(credential::CREDS),
        nkey: file(credential::NKEY)
            .map(|path| seed_in(&path))
            .transpose()?,
        user: text(credential::USER)?,
        password: text(credential::PASSWORD)?,
        token: text(credential::TOKEN)?,
        ca: file(credential::CA),
        cert: file(credential::CERT),
        key: file(credential::KEY),
        ..Layer::of("the credentials of the unit")
    })
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The first line of a file.
fn secret(path: Option<&Path>) -> Result<Option<String>, String> {
    let Some(path) = path else { return Ok(None) };
    let text = read("a password or token for NATS", path)?;
    let line = text.lines().next().unwrap_or_default().trim();
    match line.is_empty() {
        true => Err(format!(
            "{} is empty: it is to hold a secret for NATS",
            named::shown(path)
        )),
        false => Ok(Some(line.to_owned())),
    }
}

/// The seed in a file, bare or between the lines that `nsc` puts around it.
fn seed_in(path: &Path) -> Result<String, String> {
    let text = read("the nkey for NATS", path)?;
    let mut lines = text.lines().map(str::trim);
    let seed = lines
        .find(|line| line.starts_with("SU"))
        .unwrap_or_default();
    match nats::check_seed(seed) {
        Ok(()) => Ok(seed.to_owned()),
        Err(why) => Err(format!("{}: {why}", named::shown(path))),
    }
}

fn read(what: &str, path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{what}: {}: {error}", named::shown(path)))
}

fn check_files(credentials: &Credentials) -> Result<(), String> {
    let files = [
        ("the credentials for NATS", &credentials.creds_file),
        ("the authority of NATS", &credentials.ca),
        ("our certificate for NATS", &credentials.cert),
        ("the key of our certificate for NATS", &credentials.key),
    ];
    for (what, path) in files {
        if let Some(path) = path
            && let Err(error) = fs::File::open(path)
        {
            return Err(format!("{what}: {}: {error}", named::shown(path)));
        }
    }
    credentials.check_user()?;
    credentials.check_certificates()
}

fn check_inbox(prefix: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_graphic() && !"*>\"".contains(c);
    let is_subject = prefix.chars().all(plain) && prefix.split('.').all(|word| !word.is_empty());
    match is_subject {
        true => Ok(()),
        false => Err(format!(
            "`{prefix}` is not the beginning of a subject: write --nats-inbox-prefix like _INBOX_beat"
        )),
    }
}
