//! An issuer of tokens that answers by a script, over TLS, and counts how often it is asked for its keys.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jsonwebtoken::Algorithm;
use local::certificates::{Authority, Certificate};
use local::services::Directory;
use local::signing::SigningKey;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{lasting, servers};

/// The algorithms that are checked with a public key.
pub const PUBLIC: [Algorithm; 4] = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];

#[derive(Clone)]
pub enum Answer {
    /// A set of keys.
    Set(Value),
    /// Another status, and what goes with it.
    Other(&'static str, String),
    /// Nothing, for as long as the client waits.
    Silence,
    /// The connection is closed at once.
    Away,
}

pub struct Issuer {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
    bundle: Directory,
}

impl Issuer {
    pub async fn start(answer: Answer) -> Self {
        Self::start_with(Certificate::Good, answer).await
    }

    pub async fn start_with(certificate: Certificate, answer: Answer) -> Self {
        let authority = Authority::new().unwrap();
        let bundle = Directory::new().unwrap();
        fs::write(bundle.path().join("bundle.pem"), authority.pem()).unwrap();
        let issued = authority.issue(certificate).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()));
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let listener = lasting(async { TcpListener::bind("127.0.0.1:0").await.unwrap() }).await;
        let address = listener.local_addr().unwrap();
        let (script, count) = (answer.clone(), asked.clone());
        lasting(async move {
            drop(tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(serve(stream, tls.clone(), script.lock().unwrap().clone()));
                }
            }));
        })
        .await;
        Self { address, answer, asked, bundle }
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}/.well-known/jwks.json?version=1", self.address.port())
    }

    pub fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// How often somebody came for the keys since the last call.
    pub fn take_asked(&self) -> usize {
        self.asked.swap(0, Ordering::SeqCst)
    }

    /// The environment of functions that fetch its keys.
    pub async fn env(&self, algorithm: Algorithm) -> BTreeMap<&'static str, String> {
        let mut env = servers().await.env();
        env.insert("JWT_ALGORITHM", format!("{algorithm:?}"));
        env.insert("JWT_JWKS_URL", self.url());
        env.insert("SSL_CERT_FILE", self.bundle.path().join("bundle.pem").display().to_string());
        env.remove("JWT_SECRET_KEY");
        env
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, answer: Answer) {
    let (status, body) = match answer {
        Answer::Set(set) => ("200 OK", set.to_string()),
        Answer::Other(status, body) => (status, body),
        Answer::Silence => return tokio::time::sleep(Duration::from_secs(60)).await,
        Answer::Away => return,
    };
    // A client that does not trust us leaves.
    let Ok(mut stream) = tls.accept(stream).await else { return };
    let (mut request, mut buffer) = (Vec::new(), [0; 1024]);
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(length @ 1..) => request.extend_from_slice(&buffer[..length]),
            _ => return,
        }
    }
    let request = String::from_utf8(request).unwrap();
    assert!(request.starts_with("GET /.well-known/jwks.json?version=1 HTTP/1.1\r\n"), "{request}");
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _ = stream.write_all((head + &body).as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// A set of these keys.
pub fn set(keys: &[&SigningKey]) -> Answer {
    Answer::Set(json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}))
}
