//! How to get in: what the client shows to the server, and what that is called in errors. Never shows a secret.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use async_nats::ConnectOptions;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

/// How to get in; what is not given is not used.
#[derive(Clone, Default)]
pub struct Credentials {
    /// A `.creds` file.
    pub creds_file: Option<PathBuf>,
    /// The seed of an nkey.
    pub nkey: Option<String>,
    /// The JWT of a user; with `nkey`, its seed.
    pub jwt: Option<String>,
    /// With `password`.
    pub user: Option<String>,
    /// With `user`.
    pub password: Option<String>,
    /// A token.
    pub token: Option<String>,
    /// Certificates that are trusted.
    pub ca: Option<PathBuf>,
    /// Our certificate; with `key`.
    pub cert: Option<PathBuf>,
    /// Our private key; with `cert`.
    pub key: Option<PathBuf>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// What is wrong with the seed of an nkey, if anything. Does not repeat it.
pub fn check_seed(seed: &str) -> Result<(), String> {
    let pair = nkeys::KeyPair::from_seed(seed.trim());
    pair.map(|_| ())
        .map_err(|error| format!("it is not the seed of an nkey, which begins with SU: {error}"))
}

/// A new nkey of a user: its seed, which is a secret, and its public key.
pub fn new_nkey() -> Result<(String, String), String> {
    let pair = nkeys::KeyPair::new_user();
    let seed = pair.seed().map_err(|error| error.to_string())?;
    Ok((seed, pair.public_key()))
}

/// The certificates in a PEM file; one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<_, _>>);
    let found: Vec<_> = found.map_err(|error| format!("{shown}: {error}"))?;
    match found.is_empty() {
        true => Err(format!("{shown}: there is no certificate in it, in PEM")),
        false => Ok(found),
    }
}

impl Credentials {
    /// What is wrong with what a user is known by, if anything, as the client would find it. Repeats no secret.
    pub fn check_user(&self) -> Result<(), String> {
        if let Some(path) = &self.creds_file {
            let refuse = |error: io::Error| {
                let shown = path.display();
                format!(
                    "the credentials for NATS: {shown}: {error}; `nsc generate creds` writes such a file"
                )
            };
            let text = std::fs::read_to_string(path).map_err(refuse)?;
            ConnectOptions::with_credentials(&text).map_err(refuse)?;
        }
        match (&self.jwt, &self.nkey) {
            (_, Some(seed)) => check_seed(seed),
            (Some(_), None) => Err("a JWT needs the seed of its nkey".to_owned()),
            (None, None) => Ok(()),
        }
    }

    /// What is wrong with the files of certificates, if anything: the client itself says no more than that it is.
    pub fn check_certificates(&self) -> Result<(), String> {
        if let Some(ca) = &self.ca {
            certificates(ca).map_err(|why| format!("the authority of NATS: {why}"))?;
        }
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else {
            return Ok(());
        };
        let chain = certificates(cert).map_err(|why| format!("our certificate for NATS: {why}"))?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| {
            let shown = key.display();
            format!("the key of our certificate for NATS: {shown}: {error}")
        })?;
        let pair = CertifiedKey::from_der(chain, private, &ring::default_provider());
        pair.map(|_| ()).map_err(|error| {
            let (cert, key) = (cert.display(), key.display());
            format!("our certificate for NATS, {cert}, and its key, {key}, do not belong together: {error}")
        })
    }

    /// Who we are to the server, for errors.
    pub(super) fn who(&self) -> String {
        let jwt_of_file = || {
            let text = std::fs::read_to_string(self.creds_file.as_ref()?).ok()?;
            let jwt = text.lines().find(|line| line.starts_with("eyJ"))?;
            Some(jwt.to_owned())
        };
        if let Some(path) = &self.creds_file {
            let name = jwt_of_file().and_then(|jwt| name_in(&jwt));
            return match name {
                Some(name) => format!("the user {name}"),
                None => format!("the user of {}", path.display()),
            };
        }
        if let Some(jwt) = &self.jwt {
            return match name_in(jwt) {
                Some(name) => format!("the user {name}"),
                None => "the user of the JWT".to_owned(),
            };
        }
        if let Some(seed) = &self.nkey {
            return match nkeys::KeyPair::from_seed(seed) {
                Ok(pair) => format!("the user with the nkey {}", pair.public_key()),
                Err(_) => "the user with the nkey".to_owned(),
            };
        }
        match (&self.user, &self.token, &self.cert) {
            (Some(user), _, _) => format!("the user {user}"),
            (None, Some(_), _) => "the user of the token".to_owned(),
            (None, None, Some(cert)) => {
                format!("the user of the certificate {}", cert.display())
            }
            (None, None, None) => "a user without credentials".to_owned(),
        }
    }

    /// Gives them to the client.
    pub(super) async fn apply(self, mut connect: ConnectOptions) -> Result<ConnectOptions, String> {
        if let Some(user) = self.user {
            connect = connect.user_and_password(user, self.password.unwrap_or_default());
        }
        if let Some(token) = self.token {
            connect = connect.token(token);
        }
        match (self.jwt, self.nkey) {
            (Some(jwt), Some(seed)) => {
                check_seed(&seed)?;
                connect = connect.jwt(jwt, move |nonce| {
                    let pair = nkeys::KeyPair::from_seed(&seed);
                    let signed = pair.and_then(|pair| pair.sign(&nonce));
                    std::future::ready(signed.map_err(async_nats::AuthError::new))
                });
            }
            (None, Some(seed)) => {
                check_seed(&seed)?;
                connect = connect.nkey(seed);
            }
            (Some(_), None) => return Err("a JWT needs the seed of its nkey".to_owned()),
            (None, None) => {}
        }
        if let Some(path) = self.creds_file {
            let shown = path.display().to_string();
            let read = connect.credentials_file(path).await;
            connect = read.map_err(|error| format!("{shown}: {error}"))?;
        }
        if let Some(path) = self.ca {
            connect = connect.add_root_certificates(path).require_tls(true);
        }
        if let (Some(cert), Some(key)) = (self.cert, self.key) {
            connect = connect.add_client_certificate(cert, key).require_tls(true);
        }
        Ok(connect)
    }
}

/// The name of a user in its JWT. Nothing is verified: the server does that.
fn name_in(jwt: &str) -> Option<String> {
    let payload = URL_SAFE_NO_PAD.decode(jwt.trim().split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    let name = claims.get("name")?.as_str()?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_named_and_no_secret_is() {
        let claims = URL_SAFE_NO_PAD.encode(br#"{"name":"worker-high","sub":"U"}"#);
        let of_jwt = Credentials {
            jwt: Some(format!("eyJ.{claims}.sig")),
            ..Credentials::default()
        };
        assert_eq!(of_jwt.who(), "the user worker-high");
        let pair = nkeys::KeyPair::new_user();
        let of_nkey = Credentials {
            nkey: Some(pair.seed().unwrap()),
            ..Credentials::default()
        };
        assert!(of_nkey.who().ends_with(&pair.public_key()));
        let of_token = Credentials {
            token: Some("hidden".to_owned()),
            ..Credentials::default()
        };
        assert!(!of_token.who().contains("hidden"));
        assert_eq!(Credentials::default().who(), "a user without credentials");
        let wrong = check_seed("SUhidden").unwrap_err();
        assert!(!wrong.contains("hidden"), "{wrong}");
    }
}
