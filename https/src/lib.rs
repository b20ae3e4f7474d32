//! The way to what the operator names, and one GET of a document there. What users name goes through the guard of the crate
//! `mail` instead.

use std::sync::Arc;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Position, Url};

/// Of the answer's head. hyper takes no less than 8 KiB.
const HEAD_BYTES: usize = 16 * 1024;

/// A connection, over TLS or not.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection to where a URL leads, over TLS where the scheme is https. The caller bounds the time.
///
/// # Errors
/// There is nobody, or another than he who is named.
pub async fn connect(url: &Url, tls: &Arc<ClientConfig>) -> anyhow::Result<Box<dyn Stream>> {
    let host = url.host_str().context("the URL has no host")?;
    let port = url.port_or_known_default().context("the URL has no port")?;
    // An IPv6 address stands between brackets in a URL, and nowhere else.
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let tcp = TcpStream::connect((bare, port)).await.with_context(|| format!("cannot connect to {host}:{port}"))?;
    // What is sent in two pieces is not to wait for the first one's receipt.
    tcp.set_nodelay(true)?;
    if url.scheme() != "https" {
        return Ok(Box::new(tcp));
    }
    let name = ServerName::try_from(bare.to_owned())?;
    let stream = TlsConnector::from(tls.clone()).connect(name, tcp).await;
    Ok(Box::new(stream.with_context(|| format!("no TLS with {host}:{port}"))?))
}

/// The document at a URL, of at most `max` bytes, over TLS where the scheme is https. No redirect is followed. The caller
/// bounds the time.
///
/// # Errors
/// There is none, or it is larger.
pub async fn get(url: &Url, max: usize, tls: &Arc<ClientConfig>) -> anyhow::Result<Bytes> {
    let stream = connect(url, tls).await?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD_BYTES).handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let request = Request::get(&url[Position::BeforePath..Position::AfterQuery])
            .header(HOST, &url[Position::BeforeHost..Position::AfterPort])
            .header(USER_AGENT, "email_service")
            .header(ACCEPT, "application/json")
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            bail!("{} answers {}", url.host_str().unwrap_or_default(), response.status().as_u16());
        }
        let body = Limited::new(response.into_body(), max).collect().await;
        Ok(body.map_err(|error| anyhow::anyhow!("the body cannot be read: {error}"))?.to_bytes())
    };
    // The connection is driven here and not in a task of its own, so that it ends with the request.
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // Its last words may still be on the way to whoever reads them.
        _ = connection => exchange.await,
    }
}
