//! Cross-origin resource sharing (the Fetch standard, 3.2): which pages' scripts may read our answers.
//!
//! Done here and not by API Gateway, so that it is the same behind every front door.

use lambda_http::http::{HeaderName, HeaderValue, header};

use crate::event::Request;

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS");
const HEADERS: HeaderValue =
    HeaderValue::from_static("Content-Type, Authorization, X-Tenant-ID, X-User-ID, X-User-Role, Idempotency-Key");
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "X-Request-Id, Location, Content-Disposition, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, RateLimit, RateLimit-Policy, Idempotency-Replayed",
);
/// Two hours: the longest that Chromium caches a preflight.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// The origins that are let in.
#[derive(Debug)]
pub struct Cors {
    origins: Vec<HeaderValue>,
}

impl Cors {
    /// Lets in exactly these origins.
    pub fn new(origins: Vec<HeaderValue>) -> Self {
        Self { origins }
    }

    /// The headers of an answer. Other origins get none, but every answer says that it depends on the origin, or
    /// a cache would serve one origin's answer to another.
    pub fn headers(&self, request: &Request) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = vec![(header::VARY, HeaderValue::from_static("Origin"))];
        if let Some(origin) = self.allowed(request) {
            headers.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()));
            headers.push((header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED));
        }
        headers
    }

    /// What the answer to a preflight says beside [`Cors::headers`].
    pub fn preflight_headers(&self, request: &Request) -> Vec<(HeaderName, HeaderValue)> {
        match self.allowed(request) {
            None => Vec::new(),
            Some(_) => vec![
                (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
                (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
            ],
        }
    }

    fn allowed(&self, request: &Request) -> Option<&HeaderValue> {
        let origin = request.header("origin")?;
        self.origins.iter().find(|allowed| allowed.as_bytes() == origin.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Pairs;

    fn names(origin: &str) -> (usize, usize) {
        let cors = Cors::new(vec![HeaderValue::from_static("https://app.example.com")]);
        let headers = Pairs(vec![("origin".to_owned(), origin.to_owned())]);
        let request = Request { headers, ..Request::default() };
        (cors.headers(&request).len(), cors.preflight_headers(&request).len())
    }

    #[test]
    fn look_alike_origins_get_nothing_but_vary() {
        assert_eq!(names("https://app.example.com"), (3, 3));
        for other in [
            "https://app.example.com.evil.net",
            "https://evil-app.example.com",
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://APP.example.com",
            "https://app.example.com/",
            "null",
            "*",
            "",
        ] {
            assert_eq!(names(other), (1, 0), "{other}");
        }
    }
}
