//! A request over HTTP in place of a program.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Template, TemplateError, Values};

/// `http = { url, method, headers, body, expect_status, expect_body, redirects, max_body }`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HttpRequest {
    /// Placeholders are filled in, percent-encoded unless the whole URL is one.
    pub url: Template,
    /// In capitals.
    #[serde(default)]
    pub method: Method,
    /// By name; placeholders are filled in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Template>,
    /// What is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
    /// The statuses that mean success; empty: 200 to 299.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expect_status: Vec<u16>,
    /// The answer must contain this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_body: Option<String>,
    /// How many redirects are followed.
    #[serde(default = "HttpRequest::default_redirects")]
    pub redirects: u8,
    /// How many bytes of the answer are read; a longer one is a failure.
    #[serde(default = "HttpRequest::default_max_body")]
    pub max_body: u64,
}

impl HttpRequest {
    /// A plain GET.
    pub fn get(url: Template) -> Self {
        Self {
            url,
            method: Method::default(),
            headers: BTreeMap::new(),
            body: None,
            expect_status: Vec::new(),
            expect_body: None,
            redirects: Self::default_redirects(),
            max_body: Self::default_max_body(),
        }
    }

    /// Five redirects are followed unless the job says otherwise.
    pub const fn default_redirects() -> u8 {
        5
    }

    /// 1 MiB is read unless the job says otherwise.
    pub const fn default_max_body() -> u64 {
        1 << 20
    }

    /// Whether a status means success.
    pub fn expects(&self, status: u16) -> bool {
        match self.expect_status.as_slice() {
            [] => (200..300).contains(&status),
            expected => expected.contains(&status),
        }
    }

    /// Every text with placeholders.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let body = self.body.iter().flat_map(Body::templates);
        std::iter::once(&self.url)
            .chain(self.headers.values())
            .chain(body)
    }
}

/// The method of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// GET
    #[default]
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// PATCH
    Patch,
    /// DELETE
    Delete,
    /// OPTIONS
    Options,
}

impl Method {
    /// Every method with the name that users write.
    pub const ALL: [(&'static str, Self); 7] = [
        ("GET", Self::Get),
        ("HEAD", Self::Head),
        ("POST", Self::Post),
        ("PUT", Self::Put),
        ("PATCH", Self::Patch),
        ("DELETE", Self::Delete),
        ("OPTIONS", Self::Options),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, method)| *method == self);
        found.map_or("GET", |(name, _)| name)
    }
}

/// What a request sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// As it is, with placeholders filled in.
    Text(Template),
    /// As JSON; placeholders in its texts are filled in.
    Json(Json),
}

/// A JSON value whose texts are templates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Json {
    /// Placeholders are filled in.
    Text(Template),
    /// Each on its own.
    List(Vec<Json>),
    /// Keys are taken as they are.
    Object(BTreeMap<String, Json>),
    /// Numbers and booleans.
    Other(Value),
}

impl Body {
    fn templates(&self) -> Vec<&Template> {
        match self {
            Self::Text(text) => vec![text],
            Self::Json(json) => json.templates(),
        }
    }
}

impl Json {
    fn templates(&self) -> Vec<&Template> {
        match self {
            Self::Text(text) => vec![text],
            Self::List(items) => items.iter().flat_map(Self::templates).collect(),
            Self::Object(fields) => fields.values().flat_map(Self::templates).collect(),
            Self::Other(_) => Vec::new(),
        }
    }

    /// The value with its placeholders filled in.
    pub fn render(&self, values: &impl Values) -> Result<Value, TemplateError> {
        Ok(match self {
            Self::Text(text) => Value::String(text.render(values)?),
            Self::List(items) => {
                let items = items.iter().map(|item| item.render(values));
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            Self::Object(fields) => {
                let fields = fields
                    .iter()
                    .map(|(name, value)| Ok((name.clone(), value.render(values)?)));
                Value::Object(fields.collect::<Result<_, _>>()?)
            }
            Self::Other(value) => value.clone(),
        })
    }
}
