//! Executes one attempt as a request over HTTP: time-outs, TLS, bounded redirects and sizes.

mod redirects;

use std::{
    error::Error as _,
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::{
    Client, Request, Response, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};
use serde_json::{Value, json};

pub(super) use redirects::{Leaving, Redirects, send};

use super::{Ended, Execution, Limits, Output, RunContext, Stop};
use crate::{
    broker::LogStream,
    clock,
    job::{Body, HttpRequest, TemplateError, Values},
    run::{Exit, is_shallow},
};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a request may take if the job does not say.
const WHOLE: Duration = Duration::from_secs(60);
/// A JSON answer up to this size becomes the run's result.
const RESULT: usize = 32 * 1024;
/// A longer type of content is left out of the result: a server says what it likes.
const CONTENT: usize = 256;
/// Who asks.
const USER_AGENT: &str = concat!("orchestrator/", env!("CARGO_PKG_VERSION"));

/// What RFC 3986 leaves unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A request, ready to be sent.
#[derive(Debug)]
pub struct Prepared {
    request: Request,
    redirects: Redirects,
    expected: Expected,
}

#[derive(Debug)]
struct Expected {
    status: HttpRequest,
    body: Option<String>,
}

/// Fills in placeholders percent-encoded.
struct Encoded<'a, V>(&'a V);

impl<V: Values> Values for Encoded<'_, V> {
    fn built_in(&self, name: &str) -> Option<String> {
        self.0.built_in(name).map(|value| encode(&value))
    }

    fn argument(&self, name: &str) -> Option<String> {
        self.0.argument(name).map(|value| encode(&value))
    }

    fn credential(&self, name: &str) -> Option<String> {
        self.0.credential(name).map(|value| encode(&value))
    }
}

/// As a text is put into a URL.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

impl Prepared {
    /// Fills in the placeholders. Fails with a reason for the run's record.
    pub fn prepare(http: &HttpRequest, context: &RunContext<'_>) -> Result<Self, String> {
        let missing = |error: TemplateError| error.to_string();
        let source = http.url.source();
        let is_one = source.starts_with('{') && source.find('}') == Some(source.len() - 1);
        let url = match is_one {
            true => http.url.render(context),
            false => http.url.render(&Encoded(context)),
        };
        let url = url.map_err(missing)?;
        let parsed = Url::parse(&url).map_err(|error| format!("`{url}` is not a URL: {error}"))?;
        if !["http", "https"].contains(&parsed.scheme()) {
            return Err(format!("`{url}` is neither http nor https"));
        }
        let method = http.method.name().parse();
        let mut request = Request::new(method.unwrap_or_default(), parsed);
        authorize(&mut request)?;
        for (name, value) in &http.headers {
            let value = value.render(context).map_err(missing)?;
            add(request.headers_mut(), name, &value)?;
        }
        match &http.body {
            None => {}
            Some(Body::Text(text)) => {
                *request.body_mut() = Some(text.render(context).map_err(missing)?.into());
            }
            Some(Body::Json(json)) => {
                let json = json.render(context).map_err(missing)?;
                *request.body_mut() = Some(json.to_string().into());
                if !request.headers().contains_key(CONTENT_TYPE) {
                    add(request.headers_mut(), "content-type", "application/json")?;
                }
            }
        }
        let traced = context.traceparent();
        add(request.headers_mut(), "traceparent", &traced)?;
        Ok(Self {
            request,
            redirects: Redirects {
                most: http.redirects,
                leaving: match context.message.spec.credentials.is_empty() {
                    true => Leaving::Follow,
                    false => Leaving::Refuse,
                },
            },
            expected: Expected {
                body: http.expect_body.clone(),
                status: http.clone(),
            },
        })
    }
}

/// A user in the URL goes into the header that is there for it (RFC 7617), as with every client.
fn authorize(request: &mut Request) -> Result<(), String> {
    let url = request.url();
    let plain = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    let (name, password) = (plain(url.username()), url.password().map(plain));
    if name.is_empty() && password.is_none() {
        return Ok(());
    }
    let both = [name, b":".to_vec(), password.unwrap_or_default()].concat();
    // Not refused: a URL of http or https has a host.
    let _ = request.url_mut().set_username("");
    let _ = request.url_mut().set_password(None);
    let value = format!("Basic {}", STANDARD.encode(both));
    add(request.headers_mut(), AUTHORIZATION.as_str(), &value)
}

fn add(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), String> {
    let header = name.parse::<HeaderName>();
    let header = header.map_err(|error| format!("the header `{name}`: {error}"))?;
    // Not the value: it may be a secret.
    let value = value.parse::<HeaderValue>().map_err(|_| {
        format!("the value of the header `{name}` has a character that headers cannot have")
    })?;
    headers.insert(header, value);
    Ok(())
}

/// One client for all: it keeps connections, and follows no redirect by itself.
#[derive(Debug, Default)]
pub(super) struct Clients(Mutex<Option<Client>>);

impl Clients {
    pub(super) fn get(&self) -> Result<Client, String> {
        /// Chosen once for the process: two libraries with different ones are linked.
        static PROVIDER: LazyLock<()> = LazyLock::new(|| {
            // Somebody else has chosen: that one is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        LazyLock::force(&PROVIDER);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*kept {
            return Ok(client.clone());
        }
        let client = Client::builder()
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            .user_agent(USER_AGENT)
            .build()
            .map_err(|error| format!("no HTTP client can be made: {}", causes(&error)))?;
        *kept = Some(client.clone());
        Ok(client)
    }
}

/// Sends a request and reads the answer, which becomes output.
pub(super) async fn request(
    clients: &Clients,
    prepared: Prepared,
    limits: Limits,
    output: &Output,
    stop: &Stop,
) -> Execution {
    let whole = limits.timeout.map_or(WHOLE, |timeout| timeout.get());
    let (ended, answered) = tokio::select! {
        answered = ask(clients, prepared, output) => (Ended::ByItself, answered),
        () = stop.asked() => (Ended::Stopped, Err("stopped".to_owned())),
        () = tokio::time::sleep(whole) => {
            (Ended::TimedOut, Err(format!("no whole answer within {whole:?}")))
        }
    };
    match answered {
        Ok((exit, result)) => Execution {
            ended,
            exit,
            result: Some(result),
        },
        Err(reason) => {
            output.remark(&reason);
            Execution {
                ended,
                exit: Exit::Failed(reason),
                result: None,
            }
        }
    }
}

async fn ask(
    clients: &Clients,
    prepared: Prepared,
    output: &Output,
) -> Result<(Exit, Value), String> {
    let Prepared {
        request,
        redirects,
        expected,
    } = prepared;
    let answer = send(&clients.get()?, request, redirects).await?;
    let status = answer.status().as_u16();
    let wait = answer.headers().get(RETRY_AFTER).and_then(retry_after);
    let content = answer.headers().get(CONTENT_TYPE).cloned();
    let content = content.as_ref().and_then(|value| value.to_str().ok());
    let mut result = json!({ "status": status });
    if let Some(content) = content.filter(|content| content.len() <= CONTENT) {
        result["content_type"] = content.into();
    }
    if let Some(wait) = wait {
        result["retry_after"] = wait.as_secs().into();
    }
    let body = read(answer, &expected, output).await?;
    let is_json = content.is_some_and(|content| content.contains("json"));
    // Written again it may be longer: 1e15 has all its digits then.
    if is_json
        && body.len() <= RESULT
        && let Ok(value) = serde_json::from_slice::<Value>(&body)
        && is_shallow(&value)
        && value.to_string().len() <= RESULT
    {
        result["body"] = value;
    }
    if expected.status.expects(status)
        && let Some(text) = &expected.body
        && !String::from_utf8_lossy(&body).contains(text.as_str())
    {
        return Err(format!(
            "status {status}, but the answer does not contain `{text}`"
        ));
    }
    Ok((Exit::Status(status), result))
}

/// The answer, as far as it may be read.
async fn read(
    mut answer: Response,
    expected: &Expected,
    output: &Output,
) -> Result<Vec<u8>, String> {
    let most = usize::try_from(expected.status.max_body).unwrap_or(usize::MAX);
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| causes(&error))? {
        output.push(LogStream::Stdout, &piece);
        if body.len() + piece.len() > most {
            return Err(format!(
                "the answer has more than {most} bytes; see `max_body`"
            ));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// Seconds, or a date of RFC 9110.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = DateTime::parse_from_rfc2822(text).ok()?.with_timezone(&Utc);
    (at - clock::now()).to_std().ok()
}

/// An error with what led to it, without the URL, which may carry a secret.
pub(super) fn causes(error: &reqwest::Error) -> String {
    let kind = match error {
        error if error.is_timeout() => "timed out",
        error if error.is_connect() => "cannot connect",
        error if error.is_body() || error.is_decode() => "the answer broke off",
        _ => "the request failed",
    };
    let mut text = kind.to_owned();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_is_encoded() {
        assert_eq!(encode("a b/c?d=e&f~g.h"), "a%20b%2Fc%3Fd%3De%26f~g.h");
    }

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let wait = |text: &str| retry_after(&text.parse().unwrap());
        assert_eq!(wait("120"), Some(Duration::from_secs(120)));
        let later = wait("Fri, 01 Jan 2100 00:00:00 GMT").unwrap();
        assert!(later > Duration::from_secs(86_400));
        assert_eq!(wait("Fri, 01 Jan 2010 00:00:00 GMT"), None);
        assert_eq!(wait("soon"), None);
    }
}
