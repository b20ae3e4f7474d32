//! HTTP over the guarded connection, within bounds: one request to a connection.

use std::fmt;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::connect::{Connector, Session};
use crate::dns::ascii_name;

/// From the bare domain to `www`, and from there to where the file is.
const MAX_REDIRECTS: usize = 2;
/// Of the answer's head. hyper takes no less than 8 KiB.
const HEAD_BYTES: usize = 16 * 1024;
/// What TLS adds: certificates, and what each record has around it.
const TLS_BYTES: usize = 64 * 1024;

/// Why there is nothing to read, in words that go after a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection, none that is encrypted, or none that we would open.
    Unreachable,
    /// What answers there does not speak HTTP, or stops in the middle.
    Broken,
    /// Another status than 200.
    Status(u16),
    /// The body is larger than was asked for.
    TooLarge,
    /// One redirect leads to the next.
    TooManyRedirects,
    /// A redirect leads to where no connection is encrypted, to another port, or to what is no URL.
    BadRedirect,
}

impl Failure {
    /// Whether the server asks to come again later.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Status(429 | 500..=599))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("cannot be reached"),
            Self::Broken => f.write_str("does not answer in HTTP"),
            Self::Status(404 | 410) => f.write_str("does not exist"),
            Self::Status(status) => write!(f, "answers {status}"),
            Self::TooLarge => f.write_str("is too large"),
            Self::TooManyRedirects => f.write_str("redirects too often"),
            Self::BadRedirect => f.write_str("redirects to what is not HTTPS"),
        }
    }
}

/// Sends one request to a web server, and reads the body of an answer whose status is wanted, of at most `max` bytes. Without
/// a port it is the usual one. Redirects are not followed.
///
/// # Errors
/// There is no answer, or not within these bounds.
pub(crate) async fn send(
    connector: &Connector,
    (host, port): (&str, Option<u16>),
    mut request: Request<Full<Bytes>>,
    wanted: impl Fn(StatusCode) -> bool,
    max: usize,
    deadline: Instant,
) -> Result<Response<Vec<u8>>, Failure> {
    let session = Session { deadline, bytes: (HEAD_BYTES + max + TLS_BYTES) as u64 };
    let stream = connector.connect_https(host, port, session).await.map_err(|_| Failure::Unreachable)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Failure::Broken)?;
    let host = match port {
        Some(port) => HeaderValue::try_from(format!("{host}:{port}")),
        None => HeaderValue::try_from(host),
    };
    request.headers_mut().insert(HOST, host.map_err(|_| Failure::Broken)?);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("email_service"));
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|_| Failure::Broken)?;
        let (head, body) = response.into_parts();
        if !wanted(head.status) {
            return Ok(Response::from_parts(head, Vec::new()));
        }
        match Limited::new(body, max).collect().await {
            Ok(body) => Ok(Response::from_parts(head, body.to_bytes().into())),
            Err(error) if error.is::<LengthLimitError>() => Err(Failure::TooLarge),
            Err(_) => Err(Failure::Broken),
        }
    };
    // The connection is driven here and not in a task of its own, so that it ends with what it is for.
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // Its last words may still be on the way to whoever reads them.
        _ = connection => exchange.await,
    }
}

/// A URL of https, on the usual port.
struct Place {
    host: String,
    /// With the query.
    path: String,
}

/// The body at `https://host/path`, of at most `max` bytes. At most two redirects are followed, over HTTPS only, and
/// each goes through the connector's guard as the first request did.
///
/// # Errors
/// There is none, or not within these bounds.
pub(crate) async fn get(
    connector: &Connector,
    host: &str,
    path: &str,
    max: usize,
    deadline: Instant,
) -> Result<Vec<u8>, Failure> {
    let mut place = Place { host: host.to_owned(), path: path.to_owned() };
    for _ in 0..=MAX_REDIRECTS {
        let request = Request::get(&place.path).body(Full::default()).map_err(|_| Failure::BadRedirect)?;
        let answer =
            send(connector, (&place.host, None), request, |status| status == StatusCode::OK, max, deadline).await?;
        match answer.status() {
            StatusCode::OK => return Ok(answer.into_body()),
            StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT => {
                let location = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
                let next = location.and_then(|location| place.join(location, connector.policy().https_port));
                place = next.ok_or(Failure::BadRedirect)?;
            }
            status => return Err(Failure::Status(status.as_u16())),
        }
    }
    Err(Failure::TooManyRedirects)
}

impl Place {
    /// Where a redirect leads: a URL of https on the usual port, or a path on the same host.
    fn join(&self, location: &str, port: u16) -> Option<Self> {
        let uri: Uri = location.parse().ok()?;
        let host = match uri.scheme_str() {
            Some("https") if uri.port_u16().is_none_or(|given| given == port) => ascii_name(uri.host()?)?,
            // A URL without a scheme has its host in front of the path.
            None if location.starts_with('/') && !location.starts_with("//") => self.host.clone(),
            _ => return None,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Some(Self { host, path })
    }
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn redirects_lead_to_https_or_nowhere() {
        let here = Place { host: "example.com".into(), path: "/a?b".into() };
        let cases = [
            ("https://www.example.com/c?d#e", Some(("www.example.com", "/c?d"))),
            ("https://www.example.com", Some(("www.example.com", "/"))),
            ("https://www.example.com:443/c", Some(("www.example.com", "/c"))),
            ("HTTPS://WWW.Example.com/", Some(("www.example.com", "/"))),
            ("https://user:pass@www.example.com/", Some(("www.example.com", "/"))),
            // An address is left to the guard.
            ("https://127.0.0.1/", Some(("127.0.0.1", "/"))),
            ("/c", Some(("example.com", "/c"))),
            ("http://www.example.com/", None),
            ("https://www.example.com:22/", None),
            ("https://[::1]/", None),
            ("//www.example.com/", None),
            ("c", None),
            ("", None),
            ("ftp://www.example.com/", None),
            ("file:///etc/passwd", None),
            ("https://", None),
            ("https://a b/", None),
            ("https://exa%6dple.com/", None),
        ];
        for (location, expected) in cases {
            let place = here.join(location, 443);
            let place = place.as_ref().map(|place| (place.host.as_str(), place.path.as_str()));
            assert_eq!(place, expected, "{location:?}");
        }
    }
}
