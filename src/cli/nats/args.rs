//! The options that say how to get into NATS. Secrets are read from files: what is on a command line,
//! everybody on the machine can see.

use std::path::PathBuf;

use clap::Args;

/// How to get into NATS.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "NATS")]
pub struct NatsArgs {
    /// A context of the `nats` command: server and credentials under one name [env: also NATS_CONTEXT]
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_NATS_CONTEXT",
        value_name = "NAME",
        hide_short_help = true
    )]
    pub nats_context: Option<String>,

    /// File of credentials: a JWT and its seed [env: also NATS_CREDS]
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_NATS_CREDS",
        hide_env_values = true,
        value_name = "FILE",
        hide_short_help = true
    )]
    pub nats_creds: Option<PathBuf>,

    /// File with the seed of an nkey [env: also NATS_NKEY]
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_NATS_NKEY",
        hide_env_values = true,
        value_name = "FILE",
        hide_short_help = true
    )]
    pub nats_nkey: Option<PathBuf>,

    /// Name of the user [env: also NATS_USER]
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_NATS_USER",
        value_name = "NAME",
        hide_short_help = true
    )]
    pub nats_user: Option<String>,

    /// File with the password of the user; or NATS_PASSWORD has it
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_NATS_PASSWORD_FILE",
        hide_env_values = true,
        value_name = "FILE",
        hide_short_help = true
    )]
    pub nats_password_file: Option<PathBuf>,

    /// File with a token; or NATS_TOKEN has it
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_NATS_TOKEN_FILE",
        hide_env_values = true,
        value_name = "FILE",
        hide_short_help = true
    )]
    pub nats_token_file: Option<PathBuf>,

    /// File with the certificates that the server's is checked against [env: also NATS_CA]
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_NATS_CA",
        value_name = "FILE",
        hide_short_help = true
    )]
    pub nats_ca: Option<PathBuf>,

    /// File with our certificate; with --nats-key [env: also NATS_CERT]
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_NATS_CERT",
        value_name = "FILE",
        hide_short_help = true
    )]
    pub nats_cert: Option<PathBuf>,

    /// File with the key of our certificate; with --nats-cert [env: also NATS_KEY]
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_NATS_KEY",
        hide_env_values = true,
        value_name = "FILE",
        hide_short_help = true
    )]
    pub nats_key: Option<PathBuf>,

    /// Begin with TLS before the server says anything, for servers with `handshake_first`
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_NATS_TLS_FIRST",
        hide_short_help = true
    )]
    pub nats_tls_first: bool,

    /// What the subjects begin with on which answers come [default: _INBOX] [env: also NATS_INBOX_PREFIX]
    #[arg(
        long,
        global = true,
        env = "ORCHESTRATOR_NATS_INBOX_PREFIX",
        value_name = "SUBJECT",
        hide_short_help = true
    )]
    pub nats_inbox_prefix: Option<String>,
}

impl NatsArgs {
    /// The variables by which another process gets in the same way. They name files, never secrets.
    pub fn variables(&self) -> impl Iterator<Item = (String, String)> {
        let absolute = |path: &PathBuf| {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            path.to_string_lossy().into_owned()
        };
        let files = [
            ("CREDS", &self.nats_creds),
            ("NKEY", &self.nats_nkey),
            ("PASSWORD_FILE", &self.nats_password_file),
            ("TOKEN_FILE", &self.nats_token_file),
            ("CA", &self.nats_ca),
            ("CERT", &self.nats_cert),
            ("KEY", &self.nats_key),
        ];
        let files = files.map(|(name, path)| (name, path.as_ref().map(absolute)));
        let texts = [
            ("CONTEXT", self.nats_context.clone()),
            ("USER", self.nats_user.clone()),
            ("INBOX_PREFIX", self.nats_inbox_prefix.clone()),
            ("TLS_FIRST", self.nats_tls_first.then(|| "true".to_owned())),
        ];
        let all = files.into_iter().chain(texts);
        all.filter_map(|(name, value)| Some((format!("ORCHESTRATOR_NATS_{name}"), value?)))
    }
}
