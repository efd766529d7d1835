//! The options that every command takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::nats::NatsArgs;

/// The first word of all names in NATS, if nobody says otherwise.
pub(super) const DEFAULT_NAMESPACE: &str = "orch";

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub struct Globals {
    /// NATS server to use, for example nats://127.0.0.1:4222; wins over a running `up` [env: also NATS_URL]
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_NATS",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub nats: Option<String>,

    /// First word of all names in NATS, so that several installations can share a server
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_NAMESPACE",
        value_name = "NAME",
        default_value = DEFAULT_NAMESPACE,
        value_parser = namespace
    )]
    pub namespace: String,

    /// Copies of every stream and bucket in a NATS cluster
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_REPLICAS",
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u8).range(1..=5)
    )]
    pub replicas: u8,

    /// Where state is kept; a running `up` is reached through its socket in there
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_DATA_DIR",
        value_name = "DIR",
        default_value = ".orchestrator"
    )]
    pub data_dir: PathBuf,

    /// Form of the data on standard output
    #[arg(
        short,
        long,
        global = true,
        env = "ORCHESTRATOR_OUTPUT",
        value_name = "FORM",
        default_value = "table"
    )]
    pub output: Format,

    /// Say less on standard error
    #[arg(short, long, global = true, env = "ORCHESTRATOR_QUIET")]
    pub quiet: bool,

    /// Say more on standard error; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Colour of what is for people
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_COLOR",
        value_name = "WHEN",
        default_value = "auto"
    )]
    pub color: Color,

    #[command(flatten)]
    pub(super) access: NatsArgs,
}

/// Form of the data on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people
    Table,
    /// One JSON value; lists are arrays
    Json,
    /// Only names or ids, one a line
    Name,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

fn namespace(text: &str) -> Result<String, String> {
    match crate::broker::nats::is_namespace(text) {
        true => Ok(text.to_owned()),
        false => Err("a namespace has letters, digits, `-` and `_`".to_owned()),
    }
}
