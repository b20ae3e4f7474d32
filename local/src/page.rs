//! Serves the page of `clients/web` to browsers of this machine, with the address of the API and a token for it.
//!
//! The token is what makes this a matter for care: only the page itself gets it. Other pages cannot read it (they are of
//! another origin, and no answer allows them to), nor under a name of their own that leads here.

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION,
        REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
    },
    http::request::Parts,
};
use serde_json::Value;
use tokio::{net::TcpListener, task::AbortHandle};

use crate::gateway::{PATIENCE, pages, serve};

/// Says what the page needs to know, a fresh token in it, each time it asks.
pub type Config = Arc<dyn Fn() -> Result<Value> + Send + Sync>;

/// A page that is served, until this is dropped.
#[derive(Debug)]
pub struct Page {
    port: u16,
    listeners: Vec<AbortHandle>,
}

struct Site {
    folder: PathBuf,
    origin: String,
    policy: HeaderValue,
    config: Config,
}

impl Page {
    /// Serves the files of `folder` at this port of localhost, to a page that may connect to these origins besides. The
    /// tasks belong to the Tokio runtime that calls this.
    ///
    /// # Errors
    /// The port is taken; 0 takes a free one.
    pub async fn start(folder: &Path, port: u16, connects_to: &[&str], config: Config) -> Result<Self> {
        let listeners = bind(port).await?;
        let port = listeners.first().context("no listener")?.local_addr()?.port();
        // Frames of mail have this policy beside their own: hence the styles, and pictures from elsewhere for who asks for
        // them.
        let policy = format!(
            "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: https:; \
             connect-src 'self' {}; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
            connects_to.join(" ")
        );
        let site = Arc::new(Site {
            folder: folder.to_owned(),
            origin: format!("http://localhost:{port}"),
            policy: policy.try_into()?,
            config,
        });
        let listeners = listeners.into_iter().map(|listener| {
            let site = site.clone();
            let answer = move |request: Request<Incoming>, _| {
                let site = site.clone();
                async move { site.answer(&request.into_parts().0) }
            };
            serve(listener, Some(PATIENCE), answer)
        });
        Ok(Self { port, listeners: listeners.collect() })
    }

    /// As the browser names it, without a slash at the end.
    pub fn origin(&self) -> String {
        format!("http://localhost:{}", self.port)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.listeners.iter().for_each(AbortHandle::abort);
    }
}

/// Both of localhost's addresses: who has one alone would meet somebody else's page at the other.
async fn bind(port: u16) -> Result<Vec<TcpListener>> {
    let taken = || format!("port {port} of localhost is taken");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.with_context(taken)?;
    let port = listener.local_addr()?.port();
    match TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
        Ok(other) => Ok(vec![listener, other]),
        Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(taken()),
        // A machine without IPv6.
        Err(_) => Ok(vec![listener]),
    }
}

impl Site {
    fn answer(&self, head: &Parts) -> Response<Full<Bytes>> {
        let outcome =
            if !pages::is_addressed_to_us(head, Ipv4Addr::LOCALHOST.into()) || pages::is_from_another_origin(head) {
                Err(StatusCode::FORBIDDEN)
            } else if ![Method::GET, Method::HEAD].contains(&head.method) {
                Err(StatusCode::METHOD_NOT_ALLOWED)
            } else {
                self.find(head)
            };
        let mut response = match outcome {
            Ok((kind, body)) => {
                let mut response = Response::new(Full::new(body.into()));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                response
            }
            Err(status) => {
                let mut response = Response::new(Full::default());
                *response.status_mut() = status;
                response
            }
        };
        if response.status() == StatusCode::TEMPORARY_REDIRECT
            && let Ok(origin) = self.origin.parse()
        {
            response.headers_mut().insert(LOCATION, origin);
        }
        self.guard(response.headers_mut());
        response
    }

    /// The type and bytes of what is asked for, or the status that says why there are none.
    fn find(&self, head: &Parts) -> Result<(&'static str, Vec<u8>), StatusCode> {
        let is_named = |name: &HeaderName, value: &str| head.headers.get(name).is_some_and(|found| found == value);
        let path = match head.uri.path() {
            "/config.json" => {
                // Browsers say who asks; nothing else has the header, and is no page.
                let site = HeaderName::from_static("sec-fetch-site");
                if head.headers.contains_key(&site) && !is_named(&site, "same-origin") {
                    return Err(StatusCode::FORBIDDEN);
                }
                let config = (self.config)().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
                return Ok(("application/json", config.to_string().into_bytes()));
            }
            // The second is where mail providers send the browser back to. The API knows the page under this name alone.
            "/" | "/connected" if is_named(&HOST, self.origin.trim_start_matches("http://")) => "index.html",
            "/" => return Err(StatusCode::TEMPORARY_REDIRECT),
            path => path.trim_start_matches('/'),
        };
        let is_plain = |name: &str| {
            let is_sign = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !name.is_empty() && !name.starts_with('.') && name.chars().all(is_sign)
        };
        if !path.split('/').all(is_plain) {
            return Err(StatusCode::NOT_FOUND);
        }
        let kind = match path.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "application/octet-stream",
        };
        fs::read(self.folder.join(path)).map(|bytes| (kind, bytes)).map_err(|_| StatusCode::NOT_FOUND)
    }

    fn guard(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        let more = [
            (CACHE_CONTROL, "no-store"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
            (REFERRER_POLICY, "no-referrer"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "DENY"),
        ];
        headers.extend(more.map(|(name, value)| (name, HeaderValue::from_static(value))));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn site() -> Site {
        let folder = crate::workspace_root().join("clients/web");
        let config: Config = Arc::new(|| Ok(json!({"token": "secret"})));
        Site { folder, origin: "http://localhost:3000".into(), policy: HeaderValue::from_static("x"), config }
    }

    fn status(path: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        site().answer(&request.body(()).unwrap().into_parts().0).status().as_u16()
    }

    const US: (&str, &str) = ("host", "localhost:3000");

    #[test]
    fn the_page_gets_its_token_and_no_other_page_does() {
        assert_eq!(status("/config.json", &[US]), 200);
        assert_eq!(status("/config.json", &[US, ("sec-fetch-site", "same-origin")]), 200);
        for site in ["cross-site", "same-site", "none"] {
            assert_eq!(status("/config.json", &[US, ("sec-fetch-site", site)]), 403, "{site}");
        }
        assert_eq!(status("/config.json", &[US, ("origin", "http://localhost:5173")]), 403);
        assert_eq!(status("/config.json", &[US, ("origin", "null")]), 403);
        for host in ["rebound.example.com:3000", "localhost.example.com", "192.0.2.1:3000"] {
            assert_eq!(status("/config.json", &[("host", host)]), 403, "{host}");
        }
    }

    #[test]
    fn what_is_in_its_folder_is_served_and_nothing_else() {
        assert_eq!((status("/", &[US]), status("/connected", &[US]), status("/src/main.tsx", &[US])), (200, 200, 200));
        for path in ["/..", "/../typescript/package.json", "/%2e%2e/typescript/package.json", "//etc/passwd", "/.npmrc"]
        {
            assert_eq!(status(path, &[US]), 404, "{path}");
        }
        assert_eq!(status("/nothing.js", &[US]), 404);
        // The API would not know a page of this name.
        assert_eq!(status("/", &[("host", "127.0.0.1:3000")]), 307);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_said_to_be() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let start = |port| Page::start(Path::new("."), port, &[], Arc::new(|| Ok(json!({}))));
        assert!(start(port).await.unwrap_err().to_string().contains("is taken"));
        assert_ne!(start(0).await.unwrap().origin(), format!("http://localhost:{port}"));
    }
}
