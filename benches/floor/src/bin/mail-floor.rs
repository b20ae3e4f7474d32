//! The floor of signing in: a TCP connection, TLS and the commands that the event names, by the same libraries.
//!
//! There is nothing here of what the service does around it: no token, no limit, no rule of where to connect, no
//! deadline, no reading of answers but for where they end. With a `DATABASE_URL` it makes [`Notes`], which say nothing.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lambda_http::lambda_runtime::{self, LambdaEvent, run_concurrent, service_fn};
use redis::aio::MultiplexedConnection;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_postgres::{Client, NoTls, Statement};
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

/// What a sender asks and notes that sends nothing twice, and has so many connections to a host: as little as that can cost, three
/// empty statements and two empty calls. They come before the connection, and around what is last but one of what is said.
struct Notes {
    postgres: Client,
    statement: Statement,
    redis: MultiplexedConnection,
}

impl Notes {
    /// To where the environment says.
    async fn connect() -> Result<Self> {
        let (postgres, connection) = tokio_postgres::connect(&std::env::var("DATABASE_URL")?, NoTls).await?;
        tokio::spawn(connection);
        let statement = postgres.prepare("select 1").await?;
        let redis = redis::Client::open(std::env::var("REDIS_URL")?)?.get_multiplexed_async_connection().await?;
        Ok(Self { postgres, statement, redis })
    }

    async fn note(&self) -> Result<()> {
        self.postgres.query(&self.statement, &[]).await?;
        Ok(())
    }

    async fn call(&self) -> Result<()> {
        redis::cmd("PING").query_async::<()>(&mut self.redis.clone()).await?;
        Ok(())
    }
}

#[derive(Serialize)]
struct Answer {
    /// The server's last word on each command.
    answers: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let connector = TlsConnector::from(Arc::new(tls()?));
    let notes = Arc::new(match std::env::var_os("DATABASE_URL") {
        Some(_) => Some(Notes::connect().await?),
        None => None,
    });
    run_concurrent(service_fn(move |event: LambdaEvent<Event>| {
        let (connector, notes) = (connector.clone(), notes.clone());
        async move {
            let answers = converse(&connector, event.payload, Option::as_ref(&notes)).await?;
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

async fn converse(connector: &TlsConnector, event: Event, notes: Option<&Notes>) -> Result<Vec<String>> {
    if let Some(notes) = notes {
        notes.note().await?;
        notes.call().await?;
    }
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
    let last_but_one = event.flights.len().saturating_sub(2);
    for (place, (said, replies)) in event.flights.into_iter().enumerate() {
        if let Some(notes) = notes.filter(|_| place == last_but_one) {
            notes.note().await?;
        }
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
        if let Some(notes) = notes.filter(|_| place == last_but_one) {
            notes.note().await?;
            notes.call().await?;
        }
    }
    Ok(answers)
}
