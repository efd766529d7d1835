//! Follows redirects. What a job sends is meant for the scheme, host and port of its URL: to another one goes no header that
//! may be a secret, and with a credential nothing at all.

use reqwest::{
    Client, Method, Request, Response, StatusCode, Url,
    header::{
        ACCEPT, ACCEPT_LANGUAGE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE,
        HeaderMap, HeaderName, LOCATION, USER_AGENT,
    },
};

use super::causes;

/// What becomes of a redirect to another scheme, host or port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::exec) enum Leaving {
    /// It is followed, without what may be a secret.
    Follow,
    /// The request fails: it carries a credential, which is meant for the first one alone, and may be in its body.
    Refuse,
}

/// How redirects are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::exec) struct Redirects {
    /// How many are followed; with 0 they are answers like others.
    pub(in crate::exec) most: u8,
    pub(in crate::exec) leaving: Leaving,
}

/// The headers that go along everywhere: they say what is sent, what is wanted, by whom and for which run.
const HARMLESS: [HeaderName; 5] = [
    ACCEPT,
    ACCEPT_LANGUAGE,
    CONTENT_TYPE,
    USER_AGENT,
    HeaderName::from_static("traceparent"),
];
/// What is said of a body that is not sent any more.
const OF_A_BODY: [HeaderName; 4] = [
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    CONTENT_TYPE,
];

/// Sends a request, and again wherever the answer leads. Fails with a reason that names no URL: it may carry a secret.
pub(in crate::exec) async fn send(
    client: &Client,
    mut request: Request,
    redirects: Redirects,
) -> Result<Response, String> {
    let mut followed = 0;
    loop {
        let again = request.try_clone();
        let answer = client.execute(request).await;
        let answer = answer.map_err(|error| causes(&error))?;
        let (Some(again), Some(to), 1..) = (again, target(&answer), redirects.most) else {
            return Ok(answer);
        };
        if followed == redirects.most {
            return Err(format!(
                "redirected more than {followed} times: name the last URL, or raise `redirects`"
            ));
        }
        followed += 1;
        request = redirects.next(again, answer.status(), to)?;
    }
}

/// Where an answer leads, if it does.
fn target(answer: &Response) -> Option<Url> {
    let is_redirect = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = answer.headers().get(LOCATION).filter(|_| is_redirect)?;
    let location = std::str::from_utf8(location.as_bytes()).ok()?;
    answer.url().join(location).ok()
}

impl Redirects {
    /// The request that follows one which was answered so. Pure.
    fn next(self, mut request: Request, status: StatusCode, to: Url) -> Result<Request, String> {
        if !["http", "https"].contains(&to.scheme()) {
            return Err("redirected: to what is neither http nor https".to_owned());
        }
        if request.url().origin() != to.origin() {
            match self.leaving {
                Leaving::Follow => keep_harmless(request.headers_mut()),
                Leaving::Refuse => {
                    return Err(
                        "redirected: to another scheme, host or port, which must not be sent the job's credential; \
                         name the last URL in the job"
                            .to_owned(),
                    );
                }
            }
        }
        // As browsers and other clients do.
        let becomes_get = match status.as_u16() {
            301 | 302 => request.method() == Method::POST,
            303 => request.method() != Method::HEAD,
            _ => false,
        };
        if becomes_get {
            *request.method_mut() = Method::GET;
            *request.body_mut() = None;
            for name in OF_A_BODY {
                request.headers_mut().remove(name);
            }
        }
        *request.url_mut() = to;
        Ok(request)
    }
}

fn keep_harmless(headers: &mut HeaderMap) {
    let kept = HARMLESS.into_iter().filter_map(|name| {
        let value = headers.get(&name)?.clone();
        Some((name, value))
    });
    *headers = kept.collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLLOW: Redirects = Redirects {
        most: 5,
        leaving: Leaving::Follow,
    };

    fn request(method: Method, url: &str) -> Request {
        let mut request = Request::new(method, url.parse().unwrap());
        for (name, value) in [
            ("accept", "*/*"),
            ("authorization", "Basic abc"),
            ("content-type", "text/plain"),
            ("x-api-key", "hunter2"),
        ] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        *request.body_mut() = Some("body".into());
        request
    }

    fn names(request: &Request) -> Vec<&str> {
        let mut names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    fn next(request: Request, status: u16, to: &str) -> Request {
        let status = StatusCode::from_u16(status).unwrap();
        FOLLOW.next(request, status, to.parse().unwrap()).unwrap()
    }

    #[test]
    fn headers_go_no_further_than_they_are_meant_for() {
        let first = "https://example.org/a";
        for (to, leaves) in [
            ("https://example.org/b?c", false),
            ("https://example.org:443/b", false),
            ("http://example.org/b", true),
            ("https://example.org:8443/b", true),
            ("https://www.example.org/b", true),
            ("https://example.org.evil.test/", true),
            ("https://example.org@evil.test/", true),
        ] {
            let then = next(request(Method::PUT, first), 307, to);
            let expected: &[&str] = match leaves {
                true => &["accept", "content-type"],
                false => &["accept", "authorization", "content-type", "x-api-key"],
            };
            assert_eq!(names(&then), expected, "{to}");
            let refuse = Redirects {
                leaving: Leaving::Refuse,
                ..FOLLOW
            };
            let asked = request(Method::PUT, first);
            let refused = refuse.next(asked, StatusCode::FOUND, to.parse().unwrap());
            assert_eq!(refused.is_err(), leaves, "{to}");
            if let Err(reason) = refused {
                assert!(reason.contains("credential"), "{reason}");
            }
        }
        // Nor do they come back with the way.
        let away = next(request(Method::GET, first), 302, "https://evil.test/");
        let back = next(away, 302, first);
        assert_eq!(names(&back), ["accept", "content-type"]);
    }

    #[test]
    fn methods_become_get_where_other_clients_make_them_so() {
        let url = "https://example.org/a";
        for (method, status, expected) in [
            (Method::POST, 301, Method::GET),
            (Method::POST, 302, Method::GET),
            (Method::POST, 303, Method::GET),
            (Method::POST, 307, Method::POST),
            (Method::POST, 308, Method::POST),
            (Method::PUT, 302, Method::PUT),
            (Method::PUT, 303, Method::GET),
            (Method::HEAD, 303, Method::HEAD),
        ] {
            let then = next(request(method.clone(), url), status, url);
            assert_eq!(then.method(), expected, "{method} {status}");
            let is_whole = then.method() == method;
            assert_eq!(then.body().is_some(), is_whole, "{method} {status}");
            assert_eq!(then.headers().contains_key(CONTENT_TYPE), is_whole);
        }
    }

    #[test]
    fn nothing_else_than_the_web_is_asked() {
        let url: Url = "file:///etc/passwd".parse().unwrap();
        let asked = request(Method::GET, "http://example.org/");
        let refused = FOLLOW.next(asked, StatusCode::FOUND, url).unwrap_err();
        assert!(refused.contains("neither http nor https"), "{refused}");
    }
}
