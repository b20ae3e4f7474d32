//! The floor of synchronising: a TCP connection, TLS, the bytes that the event names, and all that comes back thrown away;
//! then a COPY of the rows that came of it, where the event has some.
//!
//! What is said is sent as fast as the server takes it, in rounds: the next one begins when the last command of the one
//! before has ended. There is nothing here of reading what comes: no limits, no headers, no plan.

use std::io::Cursor;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures_util::SinkExt;
use lambda_http::lambda_runtime::{self, LambdaEvent, run_concurrent, service_fn};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;
use tokio_rustls::TlsConnector;

#[derive(Deserialize)]
struct Event {
    host: String,
    port: u16,
    /// Files with commands of IMAP, the last of each with the tag `end`.
    rounds: Vec<String>,
    /// A file in PostgreSQL's binary form, and the table that it is copied into.
    copy: Option<(String, String)>,
}

#[derive(Serialize)]
struct Answer {
    /// That many bytes came.
    bytes: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let connector = TlsConnector::from(Arc::new(tls()?));
    run_concurrent(service_fn(move |event: LambdaEvent<Event>| {
        let connector = connector.clone();
        async move {
            let bytes = converse(&connector, &event.payload).await?;
            if let Some((file, table)) = &event.payload.copy {
                copy(file, table).await?;
            }
            Ok::<_, lambda_runtime::Error>(Answer { bytes })
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

async fn converse(connector: &TlsConnector, event: &Event) -> Result<u64> {
    let stream = TcpStream::connect((event.host.as_str(), event.port)).await?;
    stream.set_nodelay(true)?;
    let stream = connector.connect(ServerName::try_from(event.host.clone())?, stream).await?;
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).await?;
    let mut bytes = 0;
    for round in &event.rounds {
        let said = std::fs::read(round).with_context(|| format!("cannot read {round}"))?;
        let saying = async {
            writer.write_all(&said).await?;
            writer.flush().await?;
            anyhow::Ok(())
        };
        let (said, read) = tokio::join!(saying, throw_away(&mut reader));
        said?;
        bytes += read?;
    }
    Ok(bytes)
}

/// Reads to the end of the command `end`; literals are skipped, for they may hold any line.
async fn throw_away(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Result<u64> {
    let (mut bytes, mut line) = (0, Vec::new());
    loop {
        line.clear();
        ensure!(reader.read_until(b'\n', &mut line).await? > 0, "the server hung up");
        bytes += line.len() as u64;
        if line.starts_with(b"end ") {
            ensure!(line.starts_with(b"end OK"), "{}", String::from_utf8_lossy(&line));
            return Ok(bytes);
        }
        if let Some(length) = literal(&line) {
            let mut literal = (&mut *reader).take(length);
            bytes += tokio::io::copy(&mut literal, &mut tokio::io::sink()).await?;
        }
    }
}

fn literal(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"}\r\n")?;
    let digits = line.get(line.iter().rposition(|byte| *byte == b'{')? + 1..)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

async fn copy(file: &str, table: &str) -> Result<()> {
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL is not set")?;
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    let sink = client.copy_in(&format!("copy {table} from stdin (format binary)")).await?;
    let mut sink = std::pin::pin!(sink);
    let rows = std::fs::read(file)?;
    for part in rows.chunks(64 * 1024) {
        sink.send(Cursor::new(part.to_vec())).await?;
    }
    sink.finish().await?;
    Ok(())
}
