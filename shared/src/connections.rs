//! HTTP with AWS's services, on connections that are kept between requests: for the object store and for the SDK.
//!
//! What the SDK brings for that speaks HTTP/2, finds proxies and reads the system's roots itself. Nothing of it is of use
//! here, and all of it would be in every function's zip.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use lambda_http::http::{Request, Response, header, request};
use tokio::time::timeout;
use url::{Position, Url};

use crate::{MAX_IDLE, tls};

/// As long as the SDK would wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_millis(3_100);
/// The longest that one attempt takes. The largest objects have some 50 MB, at which S3 gives or takes them in a second.
pub(crate) const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// Connections to whom one is asked for, none older than what a service or a network may have forgotten: those that nobody
/// uses. There are as many as were used at once.
#[derive(Clone, Default)]
pub(crate) struct Connections(Arc<Mutex<Vec<Idle>>>);

struct Idle {
    origin: String,
    connection: Connection,
    since: Instant,
}

type Connection = SendRequest<Full<Bytes>>;

impl Connections {
    /// Has a connection ready for the request that comes next. What it takes to connect goes by beside what else comes
    /// before that.
    pub(crate) async fn approach(&self, url: &Url) {
        // What fails here fails again there, where it is said.
        if let Ok(connection) = self.connection(url).await {
            self.keep(url, connection);
        }
    }

    /// Sends a request, whose method and other headers `request` has, and waits for all of the answer, whatever it says.
    ///
    /// # Errors
    /// There is none, or not in time.
    pub(crate) async fn send(
        &self,
        url: &Url,
        request: request::Builder,
        body: Bytes,
    ) -> anyhow::Result<Response<Bytes>> {
        let request = request
            .uri(&url[Position::BeforePath..Position::AfterQuery])
            .header(header::HOST, &url[Position::BeforeHost..Position::AfterPort])
            .body(Full::new(body))?;
        let attempt = async {
            let mut connection = self.connection(url).await?;
            let (head, body) = connection.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            self.keep(url, connection);
            Ok(Response::from_parts(head, body))
        };
        timeout(ATTEMPT_LIMIT, attempt).await.with_context(|| format!("no answer within {ATTEMPT_LIMIT:?}"))?
    }

    /// A connection that nobody uses, or a new one.
    async fn connection(&self, url: &Url) -> anyhow::Result<Connection> {
        // A function that thaws learns at once what was closed while it was frozen: the connections' tasks come first.
        tokio::task::yield_now().await;
        while let Some(mut idle) = self.take(url) {
            if idle.since.elapsed() < MAX_IDLE && idle.connection.ready().await.is_ok() {
                return Ok(idle.connection);
            }
        }
        let stream = timeout(CONNECT_LIMIT, https::connect(url, &tls::client_config()?)).await;
        let (mut connection, task) = handshake(TokioIo::new(stream.context("no connection in time")??)).await?;
        drop(tokio::spawn(task));
        connection.ready().await?;
        Ok(connection)
    }

    /// The one that was used last.
    fn take(&self, url: &Url) -> Option<Idle> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = idle.iter().rposition(|idle| idle.origin == origin(url))?;
        Some(idle.remove(last))
    }

    fn keep(&self, url: &Url, connection: Connection) {
        let idle = Idle { origin: origin(url).to_owned(), connection, since: Instant::now() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
    }

    /// A request of the SDK's. None of ours has a body that is not in memory.
    async fn answer(&self, request: HttpRequest) -> anyhow::Result<HttpResponse> {
        let request = request.try_into_http1x()?;
        let url = Url::parse(&request.uri().to_string())?;
        let (head, body) = request.into_parts();
        let body = Bytes::copy_from_slice(body.bytes().context("a body that is not in memory")?);
        let mut asked = Request::builder().method(head.method);
        asked.headers_mut().context("a request that cannot be made")?.extend(head.headers);
        Ok(self.send(&url, asked, body).await?.map(SdkBody::from).try_into()?)
    }
}

/// Scheme, host and port.
fn origin(url: &Url) -> &str {
    &url[..Position::BeforePath]
}

impl HttpConnector for Connections {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connections = self.clone();
        // The SDK tries again what fails so.
        HttpConnectorFuture::new(async move {
            connections.answer(request).await.map_err(|error| ConnectorError::io(error.into()))
        })
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connections")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers each request with the request; how many connected.
    async fn echo(keeps: bool) -> (Url, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/a%20b?c=d", listener.local_addr().unwrap());
        let connected = Arc::new(AtomicUsize::new(0));
        let count = connected.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut request = vec![0; 4096];
                    loop {
                        let length = stream.read(&mut request).await.unwrap();
                        let head = format!("HTTP/1.1 404 Not Found\r\ncontent-length: {length}\r\n\r\n");
                        stream.write_all(&[head.as_bytes(), &request[..length]].concat()).await.unwrap();
                        if length == 0 || !keeps {
                            return;
                        }
                    }
                });
            }
        });
        (url.parse().unwrap(), connected)
    }

    async fn ask(connections: &Connections, url: &Url) -> String {
        let request = Request::builder().method("POST").header("x-amz-target", "it");
        let answer = connections.send(url, request, Bytes::from_static(b"body")).await.unwrap();
        assert_eq!(answer.status(), 404, "whatever it says");
        String::from_utf8(answer.into_body().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_connection_is_used_again_for_whom_it_leads_to_and_for_nobody_else() {
        let connections = Connections::default();
        let ((one, to_one), (other, to_other)) = (echo(true).await, echo(true).await);
        connections.approach(&one).await;
        for url in [&one, &other, &one, &other] {
            let asked = ask(&connections, url).await;
            assert!(asked.starts_with("POST /a%20b?c=d HTTP/1.1\r\n") && asked.ends_with("\r\n\r\nbody"), "{asked}");
            let host = format!("host: 127.0.0.1:{}\r\n", url.port().unwrap());
            assert!(asked.contains(&host) && asked.contains("x-amz-target: it\r\n"), "{asked}");
        }
        assert_eq!([to_one, to_other].map(|count| count.load(Ordering::Relaxed)), [1, 1]);
    }

    #[tokio::test]
    async fn what_was_closed_meanwhile_is_not_used_again() {
        let connections = Connections::default();
        let (url, connected) = echo(false).await;
        for times in 1..=3 {
            ask(&connections, &url).await;
            assert_eq!(connected.load(Ordering::Relaxed), times);
            // Until the end of the connection is here.
            while connections.0.lock().unwrap().iter().any(|idle| !idle.connection.is_closed()) {
                tokio::task::yield_now().await;
            }
        }
    }
}
