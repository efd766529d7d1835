//! `http = { url, method, headers, body, expect_status, expect_body, redirects, max_body }`

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::{
    reader::{Item, Reader},
    size::size,
    values::{argument, template},
};
use crate::job::{Body, HttpRequest, Json, Method, Template};

pub(super) const HTTP_KEYS: [&str; 8] = [
    "url",
    "method",
    "headers",
    "body",
    "expect_status",
    "expect_body",
    "redirects",
    "max_body",
];

pub(super) fn http(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<HttpRequest> {
    let mut address = None;
    let mut request = HttpRequest::get(empty()?);
    for (name, value) in reader.table(key, item)? {
        match name.get_ref().as_ref() {
            "url" => address = Some(url(reader, value)?),
            "method" => request.method = reader.choice("http.method", value, &Method::ALL)?,
            "headers" => request.headers = headers(reader, value)?,
            "body" => request.body = Some(body(reader, value)?),
            "expect_status" => {
                request.expect_status = statuses(reader, "http.expect_status", value)?
            }
            "expect_body" => {
                request.expect_body = Some(reader.text("http.expect_body", value)?.to_owned());
            }
            "redirects" => request.redirects = reader.integer("http.redirects", value, 0..=20)?,
            "max_body" => request.max_body = size(reader, "http.max_body", value)?,
            other => reader.unknown_key(name.span(), other, "`http`", &HTTP_KEYS),
        }
    }
    let Some(url) = address else {
        let help = "write for example http = { url = \"https://example.org/healthz\" }".to_owned();
        reader.error_with_help(item.span(), "`http` has no `url`", Some(help));
        return None;
    };
    Some(HttpRequest { url, ..request })
}

fn empty() -> Option<Template> {
    "".parse().ok()
}

fn url(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Template> {
    let template = template(reader, "http.url", item)?;
    let text = template.source();
    if ["http://", "https://", "{"]
        .iter()
        .any(|start| text.starts_with(start))
    {
        return Some(template);
    }
    let help = "it starts with http:// or https://, or is a placeholder".to_owned();
    let message = format!("`http.url`: `{text}` is not a URL that can be asked for");
    reader.error_with_help(item.span(), message, Some(help));
    None
}

fn headers(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<BTreeMap<String, Template>> {
    let mut headers = BTreeMap::new();
    for (name, value) in reader.table("http.headers", item)? {
        let text: &str = name.get_ref();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if text.is_empty() || !text.chars().all(allowed) {
            reader.error(name.span(), format!("`{text}` is not the name of a header"));
            return None;
        }
        let key = format!("http.headers.{text}");
        headers.insert(text.to_owned(), template(reader, &key, value)?);
    }
    Some(headers)
}

/// A text is sent as it is, everything else as JSON.
fn body(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Body> {
    match item.get_ref() {
        DeValue::String(_) => template(reader, "http.body", item).map(Body::Text),
        _ => json(reader, item).map(Body::Json),
    }
}

fn json(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Json> {
    match item.get_ref() {
        DeValue::String(text) if text.is_empty() => Some(Json::Other("".into())),
        DeValue::String(_) => template(reader, "http.body", item).map(Json::Text),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| json(reader, item));
            items.collect::<Option<_>>().map(Json::List)
        }
        DeValue::Table(fields) => {
            let mut object = BTreeMap::new();
            for (name, value) in fields {
                object.insert(name.get_ref().to_string(), json(reader, value)?);
            }
            Some(Json::Object(object))
        }
        _ => argument(reader, "http.body", item).map(Json::Other),
    }
}

pub(super) fn statuses(reader: &mut Reader<'_>, key: &str, item: &Item<'_>) -> Option<Vec<u16>> {
    reader.list(key, item, "a list of HTTP statuses", |reader, item| {
        reader.integer(key, item, 100..=599)
    })
}
