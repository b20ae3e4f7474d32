//! Reading a message that was read before, its bytes, and a file of it: the function beside a bare GET of what the object store
//! keeps of it. For a file it asks there twice: where in the message it is, and for that.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use local::{emulator::Emulator, environment::Environment};
use mail::content::Opened;
use serde_json::json;
use uuid::Uuid;

use super::{
    Bench, DATABASE, Row, Times, micros,
    requests::{Caller, ensure_good, insert_messages, seed},
};

pub(super) const BINARIES: [&str; 3] = ["get-message", "get-raw-message", "get-attachment"];
const ROUNDS: usize = 1000;
const UNCOUNTED: usize = 50;
/// Of the HTML: a newsletter has as much.
const HTML_BYTES: usize = 40_000;

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let emulator = Emulator::start()?;
    let bucket = emulator.make_bucket().await?;
    let caller = Caller::new()?;
    let account = *seed(bench, &caller, 1).await?.first().context("no account")?;
    let owner = bench.owner(DATABASE).await?;
    // Its number is far from those of other sections.
    let insert = insert_messages(&format!(
        "select 1000000000::bigint as n, '{}'::uuid as tenant_id, '{}'::uuid as user_id, '{account}'::uuid as account_id,
             '{account}'::uuid as folder_id, 1000::bigint as received_at, true as has_preview",
        caller.tenant, caller.user
    ));
    owner.batch_execute(&insert).await?;
    let sql = "select id from email_messages where account_id = $1";
    let message: Uuid = owner.query_one(sql, &[&account]).await?.try_get(0)?;
    let raw = message_with_a_file();
    let kept = json!({"opened": Opened::read(&raw, |id| id.to_owned()), "isCut": false});
    let place = format!("mail/{}/{account}/{message}", caller.tenant);
    bucket.put(&format!("{place}/shown"), serde_json::to_vec(&kept)?).await?;
    bucket.put(&format!("{place}/raw"), raw).await?;

    let mut env = bench.env(DATABASE);
    env.extend(bench.sealing.mail_env(bench.postgres.mail_url(DATABASE)));
    env.extend(bucket.env().iter().cloned());
    let mut rows = Vec::new();
    for function in BINARIES {
        bench.progress(&format!("reading what is kept: {function}"));
        let part = if function == "get-message" { "shown" } else { "raw" };
        let address = emulator.url().trim_start_matches("http://");
        let bare = Bare::new(address, &format!("/{}/{place}/{part}", bucket.name()));
        let mut ours = Environment::start(&bench.binary(function)?, &env)?;
        let event = caller.event(function, Some(message), None)?;
        let (mut our_times, mut bare_times) = (Times::default(), Times::default());
        for n in 0..bench.rounds(UNCOUNTED) + bench.rounds(ROUNDS) {
            // Who went first last time goes second.
            let before = if n % 2 == 0 { Some(bare.get()?) } else { None };
            let answer = ours.invoke(&event)?;
            ensure_good(&answer)?;
            let took = before.map_or_else(|| bare.get(), Ok)?;
            if n >= bench.rounds(UNCOUNTED) {
                our_times.0.push(answer.took);
                bare_times.0.push(took);
            }
        }
        let beside =
            |what: &str, ours, bare| Row::beside(format!("{function}, kept ÷ bare GET: {what}"), "µs", ours, bare);
        let p50 = beside("p50", micros(our_times.median()), micros(bare_times.median()));
        rows.extend([
            if function == "get-message" { p50.at_most(1.5) } else { p50 },
            beside("p99", micros(our_times.percentile(99)), micros(bare_times.percentile(99))),
            Row::alone(format!("peak memory {function}"), "MB", ours.peak_memory()? as f64 / 1e6).at_most(64.0),
        ]);
    }
    Ok(rows)
}

/// A newsletter after a file as long, whose id is that of the event file.
fn message_with_a_file() -> Vec<u8> {
    format!(
        "From: news@example.com\r\nSubject: News\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
         --b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename=a.pdf\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{}\r\n\
         --b\r\nContent-Type: multipart/alternative; boundary=a\r\n\r\n\
         --a\r\nContent-Type: text/plain\r\n\r\nHello\r\n\
         --a\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{}\r\n--a--\r\n--b--\r\n",
        "JVBERi0xLjQK\r\n".repeat(HTML_BYTES / 12),
        "<p>Hello</p>".repeat(HTML_BYTES / 12)
    )
    .into_bytes()
}

/// Who asks for one object again and again, and does nothing with it. The emulator ends each connection after an answer.
struct Bare {
    address: String,
    request: String,
}

impl Bare {
    fn new(address: &str, path: &str) -> Self {
        // The emulator wants a signature, and takes any.
        let scope = "local/20260101/us-east-1/s3/aws4_request";
        let signature = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0");
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: {signature}\r\nconnection: close\r\n\r\n"
        );
        Self { address: address.to_owned(), request }
    }

    fn get(&self) -> Result<Duration> {
        let started = Instant::now();
        let mut stream = TcpStream::connect(&self.address)?;
        stream.write_all(self.request.as_bytes())?;
        let (mut answer, mut piece, mut end) = (Vec::new(), vec![0; 64 * 1024], usize::MAX);
        // The emulator takes its time to end the connection.
        while answer.len() < end {
            let count = stream.read(&mut piece)?;
            ensure!(count > 0, "no object");
            answer.extend_from_slice(piece.get(..count).unwrap_or_default());
            if let Some(body) = answer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4) {
                let head = String::from_utf8_lossy(answer.get(..body).unwrap_or_default()).to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
                end = body + length.context("no length")?.trim().parse::<usize>()?;
            }
        }
        ensure!(answer.starts_with(b"HTTP/1.1 200 ") && answer.len() > HTML_BYTES, "no object of {HTML_BYTES} bytes");
        Ok(started.elapsed())
    }
}
