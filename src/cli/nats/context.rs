//! Contexts of the `nats` command: `nats/context/NAME.json` in the directory of configurations, and the
//! name of the selected one in `nats/context.txt`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::layers::Layer;

/// What a file of a context may say. Other fields mean nothing to us.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Context {
    url: String,
    user: String,
    password: String,
    token: String,
    creds: String,
    nkey: String,
    user_jwt: String,
    cert: String,
    key: String,
    ca: String,
    inbox_prefix: String,
    tls_first: bool,
    nsc: String,
    jetstream_domain: String,
    jetstream_api_prefix: String,
    socks_proxy: String,
}

/// Where contexts are: `$XDG_CONFIG_HOME`, else `~/.config`.
pub(super) fn directory() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let config = set("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(PathBuf::from(set("HOME")?).join(".config")))?;
    Some(config.join("nats"))
}

/// The name of the selected context, if there is one.
pub(super) fn selected(directory: &Path) -> Option<String> {
    let name = fs::read_to_string(directory.join("context.txt")).ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// What the context says. Errors name the context, and never what is in it.
pub(super) fn load(name: &str, directory: Option<&Path>) -> Result<Layer, String> {
    let refuse = |why: String| Err(format!("the NATS context `{name}`: {why}"));
    if name.is_empty() || name.contains("..") || name.contains('/') {
        return refuse("that is not the name of one".to_owned());
    }
    let Some(directory) = directory else {
        return refuse("contexts lie in ~/.config/nats, and HOME is not set".to_owned());
    };
    let path = directory.join("context").join(format!("{name}.json"));
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return refuse(format!("there is no {}", path.display()));
        }
        Err(error) => return refuse(format!("{}: {error}", path.display())),
    };
    let context: Context = match serde_json::from_str(&text) {
        Ok(context) => context,
        // The text of the error could repeat a secret.
        Err(error) => {
            return refuse(format!(
                "{} is not understood, line {} column {}",
                path.display(),
                error.line(),
                error.column()
            ));
        }
    };
    match layer(name, &context) {
        Ok(layer) => Ok(layer),
        Err(why) => refuse(why),
    }
}

fn layer(name: &str, context: &Context) -> Result<Layer, String> {
    let cannot = [
        (
            "nsc",
            &context.nsc,
            "name the file of `nsc generate creds` as `creds`",
        ),
        (
            "jetstream_domain",
            &context.jetstream_domain,
            "connect to a server of that domain",
        ),
        (
            "jetstream_api_prefix",
            &context.jetstream_api_prefix,
            "use an account that has JetStream itself",
        ),
        (
            "socks_proxy",
            &context.socks_proxy,
            "there are no proxies here",
        ),
    ];
    for (field, value, mend) in cannot {
        if !value.is_empty() {
            return Err(format!("`{field}` is not supported: {mend}"));
        }
    }
    let text = |value: &String| (!value.is_empty()).then(|| value.clone());
    let file = |field: &str, value: &String| -> Result<Option<PathBuf>, String> {
        if value.contains("://") || value.starts_with("data:") {
            return Err(format!("`{field}` is not a file: that is not supported"));
        }
        Ok(text(value).map(|value| expanded(&value)))
    };
    let mut layer = Layer {
        creds: file("creds", &context.creds)?,
        nkey: match file("nkey", &context.nkey)? {
            Some(path) => Some(super::seed_in(&path)?),
            None => None,
        },
        jwt: text(&context.user_jwt),
        user: text(&context.user),
        password: text(&context.password),
        token: text(&context.token),
        ca: file("ca", &context.ca)?,
        cert: file("cert", &context.cert)?,
        key: file("key", &context.key)?,
        tls_first: context.tls_first,
        inbox_prefix: text(&context.inbox_prefix),
        ..Layer::of(format!("the fields of the NATS context `{name}`"))
    };
    if !context.url.is_empty() {
        layer.take_url(&context.url);
    }
    Ok(layer)
}

/// With the home directory for `~`, `$HOME` and `${HOME}` at the beginning.
fn expanded(path: &str) -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let rest = ["~/", "$HOME/", "${HOME}/"]
        .iter()
        .find_map(|prefix| path.strip_prefix(prefix));
    match (home, rest) {
        (Some(home), Some(rest)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("context")).unwrap();
        fs::write(dir.path().join("context/prod.json"), text).unwrap();
        dir
    }

    #[test]
    fn a_context_as_natscli_writes_it_is_read() {
        let dir = write(
            r#"{
              "description": "production",
              "url": "tls://nats.example:4222",
              "socks_proxy": "",
              "token": "", "user": "beat", "password": "s3cret", "creds": "", "nkey": "",
              "cert": "/etc/cert.pem", "key": "/etc/key.pem", "ca": "/etc/ca.pem",
              "nsc": "", "jetstream_domain": "", "jetstream_api_prefix": "", "jetstream_event_prefix": "",
              "inbox_prefix": "_INBOX_beat", "user_jwt": "", "color_scheme": "", "tls_first": true
            }"#,
        );
        let layer = load("prod", Some(dir.path())).unwrap();
        assert_eq!(layer.url.as_deref(), Some("tls://nats.example:4222"));
        assert_eq!(layer.user.as_deref(), Some("beat"));
        assert_eq!(layer.password.as_deref(), Some("s3cret"));
        assert_eq!(layer.ca, Some("/etc/ca.pem".into()));
        assert_eq!(layer.inbox_prefix.as_deref(), Some("_INBOX_beat"));
        assert!(layer.tls_first && layer.token.is_none());
        assert_eq!(selected(dir.path()), None);
        fs::write(dir.path().join("context.txt"), "prod\n").unwrap();
        assert_eq!(selected(dir.path()).as_deref(), Some("prod"));
    }

    #[test]
    fn what_is_wrong_names_the_context_and_no_secret() {
        let dir = write(r#"{"url": "nats://h", "password": "s3cret", "user": 5}"#);
        for (name, part) in [
            ("prod", "prod.json is not understood, line 1"),
            ("absent", "there is no "),
            ("../prod", "not the name"),
        ] {
            let error = load(name, Some(dir.path())).err().unwrap();
            assert!(error.contains(part) && error.contains(name), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let dir = write(r#"{"nsc": "nsc://o/a/u"}"#);
        let error = load("prod", Some(dir.path())).err().unwrap();
        assert!(error.contains("nsc generate creds"), "{error}");
    }
}
