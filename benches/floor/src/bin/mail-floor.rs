//! The floor of signing in: a TCP connection, TLS and the commands that the event names, by the same libraries.
//!
//! There is nothing here of what the service does around it: no token, no limit, no rule of where to connect, no
//! deadline, no reading of answers but for where they end.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lambda_http::lambda_runtime::{self, LambdaEvent, run_concurrent, service_fn};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[derive(Deserialize)]
struct Event {
    host: String,
    port: u16,
    /// Commands of IMAP, each with its tag.
    #[serde(default)]
    commands: Vec<String>,
    /// Of SMTP: what is said at once, and how many replies that gets.
    #[serde(default)]
    flights: Vec<(String, usize)>,
}

#[derive(Serialize)]
struct Answer {
    /// The server's last word on each command.
    answers: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let connector = TlsConnector::from(Arc::new(tls()?));
    run_concurrent(service_fn(move |event: LambdaEvent<Event>| {
        let connector = connector.clone();
        async move {
            let answers = converse(&connector, event.payload).await?;
            Ok::<_, lambda_runtime::Error>(Answer { answers })
        }
    }))
    .await
}

fn tls() -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

async fn converse(connector: &TlsConnector, event: Event) -> Result<Vec<String>> {
    let stream = TcpStream::connect((event.host.as_str(), event.port)).await?;
    stream.set_nodelay(true)?;
    let stream = connector.connect(ServerName::try_from(event.host)?, stream).await?;
    let mut stream = BufReader::new(stream);
    let mut greeting = String::new();
    stream.read_line(&mut greeting).await?;
    let mut answers = Vec::new();
    for command in event.commands {
        let tag = command.split(' ').next().context("a command without a tag")?;
        stream.get_mut().write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut line = String::new();
        while !line.starts_with(tag) {
            line.clear();
            ensure!(stream.read_line(&mut line).await? > 0, "the server hung up");
        }
        answers.push(line);
    }
    for (said, replies) in event.flights {
        stream.get_mut().write_all(said.as_bytes()).await?;
        for _ in 0..replies {
            let mut line = String::new();
            // All lines of a reply but the last have a hyphen there.
            while line.as_bytes().get(3) != Some(&b' ') {
                line.clear();
                ensure!(stream.read_line(&mut line).await? > 0, "the server hung up");
            }
            answers.push(line);
        }
    }
    Ok(answers)
}
