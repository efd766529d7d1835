//! Which of several places counts when each says something of how to get into NATS. Pure.

use std::path::PathBuf;

use crate::broker::nats::Credentials;

/// What one place says.
#[derive(Clone, Default)]
pub(super) struct Layer {
    /// The place, for errors.
    pub(super) place: String,
    /// Without secrets; see [`Layer::take_url`].
    pub(super) url: Option<String>,
    pub(super) creds: Option<PathBuf>,
    pub(super) nkey: Option<String>,
    pub(super) jwt: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) token: Option<String>,
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) tls_first: bool,
    pub(super) inbox_prefix: Option<String>,
}

/// What is in force.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) url: Option<String>,
    pub(super) credentials: Credentials,
    pub(super) tls_first: bool,
    pub(super) inbox_prefix: Option<String>,
}

impl Layer {
    pub(super) fn of(place: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            ..Self::default()
        }
    }

    /// Takes the servers; a user, password or token in front of an `@` counts as given here.
    pub(super) fn take_url(&mut self, urls: &str) {
        let mut clean = Vec::new();
        for url in urls.split(',').map(str::trim) {
            let (scheme, rest) = match url.split_once("://") {
                Some((scheme, rest)) => (format!("{scheme}://"), rest),
                None => (String::new(), url),
            };
            let Some((secret, host)) = rest.rsplit_once('@') else {
                clean.push(url.to_owned());
                continue;
            };
            clean.push(format!("{scheme}{host}"));
            match secret.split_once(':') {
                Some((user, password)) => {
                    self.user.get_or_insert(decoded(user));
                    self.password.get_or_insert(decoded(password));
                }
                None => {
                    self.token.get_or_insert(decoded(secret));
                }
            }
        }
        self.url = Some(clean.join(","));
    }

    /// The ways in that this place names.
    fn ways(&self) -> Vec<&'static str> {
        let ways = [
            ("creds", self.creds.is_some()),
            ("nkey", self.nkey.is_some() || self.jwt.is_some()),
            ("user", self.user.is_some()),
            ("token", self.token.is_some()),
        ];
        let named = ways.into_iter().filter(|(_, is_named)| *is_named);
        named.map(|(name, _)| name).collect()
    }
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}

/// Of several places the earlier wins, setting by setting. Only one way in is used: that of the first
/// place that names one. Certificate and key come from one place, a password also from a later one than
/// its user.
pub(super) fn settle(layers: &[Layer]) -> Result<Settled, String> {
    fn first<T: Clone>(layers: &[Layer], of: impl Fn(&Layer) -> &Option<T>) -> Option<T> {
        layers.iter().find_map(|layer| of(layer).clone())
    }
    let mut credentials = Credentials {
        ca: first(layers, |layer| &layer.ca),
        ..Credentials::default()
    };
    if let Some(layer) = layers.iter().find(|layer| !layer.ways().is_empty()) {
        if let [first, second, ..] = layer.ways()[..] {
            return Err(format!(
                "{} name two ways to get into NATS, {first} and {second}: leave one of them",
                layer.place
            ));
        }
        credentials.creds_file.clone_from(&layer.creds);
        credentials.jwt.clone_from(&layer.jwt);
        credentials.nkey.clone_from(&layer.nkey);
        credentials.token.clone_from(&layer.token);
        if credentials.jwt.is_some() && credentials.nkey.is_none() {
            credentials.nkey = first(layers, |layer| &layer.nkey);
            if credentials.nkey.is_none() {
                return Err(format!(
                    "{} name a JWT, but nobody the seed of its nkey",
                    layer.place
                ));
            }
        }
        if layer.user.is_some() {
            credentials.user.clone_from(&layer.user);
            credentials.password = first(layers, |layer| &layer.password);
        }
    } else if let Some(layer) = layers.iter().find(|layer| layer.password.is_some()) {
        return Err(format!(
            "{} name a password, but nobody names the user: --nats-user, NATS_USER",
            layer.place
        ));
    }
    let with_certificate = |layer: &&Layer| layer.cert.is_some() || layer.key.is_some();
    if let Some(layer) = layers.iter().find(with_certificate) {
        if layer.cert.is_some() != layer.key.is_some() {
            return Err(format!(
                "{} name a certificate or its key, but not both: they go together",
                layer.place
            ));
        }
        credentials.cert.clone_from(&layer.cert);
        credentials.key.clone_from(&layer.key);
    }
    Ok(Settled {
        url: first(layers, |layer| &layer.url),
        credentials,
        tls_first: layers.iter().any(|layer| layer.tls_first),
        inbox_prefix: first(layers, |layer| &layer.inbox_prefix),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(place: &str, fill: impl FnOnce(&mut Layer)) -> Layer {
        let mut layer = Layer::of(place);
        fill(&mut layer);
        layer
    }

    #[test]
    fn the_earlier_place_wins_setting_by_setting() {
        let options = layer("options", |layer| layer.inbox_prefix = Some("_A".into()));
        let variables = layer("variables", |layer| {
            layer.take_url("nats://one");
            layer.user = Some("u".into());
        });
        let files = layer("files", |layer| {
            layer.user = Some("other".into());
            layer.password = Some("p".into());
            layer.ca = Some("ca.pem".into());
        });
        let context = layer("context", |layer| {
            layer.take_url("nats://two");
            layer.creds = Some("c.creds".into());
            layer.inbox_prefix = Some("_B".into());
        });
        let settled = settle(&[options, variables, files, context]).unwrap();
        assert_eq!(settled.url.as_deref(), Some("nats://one"));
        assert_eq!(settled.inbox_prefix.as_deref(), Some("_A"));
        let credentials = settled.credentials;
        assert_eq!(credentials.user.as_deref(), Some("u"));
        assert_eq!(credentials.password.as_deref(), Some("p"));
        assert_eq!(credentials.ca, Some("ca.pem".into()));
        assert_eq!(credentials.creds_file, None, "one way in is enough");
    }

    #[test]
    fn a_url_may_carry_secrets_and_is_shown_without_them() {
        let of = |url: &str| {
            let mut layer = Layer::of("x");
            layer.take_url(url);
            (layer.url.unwrap(), layer.user, layer.password, layer.token)
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            of("nats://u:p%40ss@h:1, nats://b"),
            ("nats://h:1,nats://b".into(), text("u"), text("p@ss"), None)
        );
        assert_eq!(
            of("tls://tok@h"),
            ("tls://h".into(), None, None, text("tok"))
        );
        assert_eq!(of("u:p@h"), ("h".into(), text("u"), text("p"), None));
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_the_place() {
        let two = layer("the NATS_ variables", |layer| {
            layer.creds = Some("c".into());
            layer.token = Some("hidden".into());
        });
        let error = settle(&[two]).unwrap_err();
        assert!(error.contains("the NATS_ variables"), "{error}");
        assert!(error.contains("creds and token"), "{error}");
        assert!(!error.contains("hidden"), "{error}");
        let half = layer("a", |layer| layer.cert = Some("c".into()));
        let other = layer("b", |layer| layer.key = Some("k".into()));
        assert!(settle(&[half, other]).unwrap_err().contains("go together"));
        let lonely = layer("a", |layer| layer.password = Some("hidden".into()));
        let error = settle(&[lonely]).unwrap_err();
        assert!(error.contains("--nats-user") && !error.contains("hidden"));
    }
}
