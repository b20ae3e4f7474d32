//! Sending a message by a real Dovecot's submission, sign-in and TLS included, beside a bare client that says the same and sends
//! the same bytes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use local::{environment::Environment, mail_server::Dovecot};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use super::{
    Bench, DATABASE, Row, Times, micros,
    requests::{Caller, PASSWORD, account, ensure_good},
    sync::delayed,
};

/// What is run here.
pub(super) const BINARIES: [&str; 4] = ["create-account", "send-message", "deliver-message", "mail-floor"];

const HOST: &str = "127.0.0.1";
const MAILBOX: &str = "jane@mail.example";
const UNCOUNTED: usize = 20;
const ROUNDS: usize = 300;
const DELAYED_ROUNDS: usize = 40;
/// One way; a round trip is two of them.
const DELAY: Duration = Duration::from_millis(10);
/// Of the text: with it a message has some 37 kB.
const LINES: usize = 640;

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    bench.progress("sending: a message of 37 kB");
    let mut rig = Rig::new(bench).await?;
    let (mut ours, mut floor, mut noted) = (Times::default(), Times::default(), Times::default());
    let (uncounted, rounds) = (bench.rounds(UNCOUNTED), bench.rounds(ROUNDS));
    // What the service sends, for the bare client to send the same.
    rig.send().await?;
    let said = rig.said()?;
    let mut cpu_before = Default::default();
    for n in 0..uncounted + rounds {
        if n == uncounted {
            cpu_before = (rig.worker.cpu_time()?, rig.floor.cpu_time()?, rig.noted.cpu_time()?);
        }
        // Who went first last time goes second.
        let before = if n % 2 == 0 { Some(Rig::send_bare(&mut rig.floor, &said)?) } else { None };
        let took = rig.send().await?;
        let with_notes = Rig::send_bare(&mut rig.noted, &said)?;
        let bare = before.map_or_else(|| Rig::send_bare(&mut rig.floor, &said), Ok)?;
        if n >= uncounted {
            ours.0.push(took);
            floor.0.push(bare);
            noted.0.push(with_notes);
        }
    }
    let cpu = |after: Duration, before| micros(after - before) / rounds as f64;
    let used = (
        cpu(rig.worker.cpu_time()?, cpu_before.0),
        cpu(rig.floor.cpu_time()?, cpu_before.1),
        cpu(rig.noted.cpu_time()?, cpu_before.2),
    );
    // The least that whoever sends nothing twice can have.
    let noting = |what: &str, noted, floor| {
        Row::beside(format!("a bare client with notes that say nothing ÷ bare client: {what}"), "µs", noted, floor)
    };
    let beside =
        |what: &str, ours, floor| Row::beside(format!("a message sent ÷ bare client: {what}"), "µs", ours, floor);
    let mut rows = vec![
        beside("p50", micros(ours.median()), micros(floor.median())).at_most(1.3),
        beside("p99", micros(ours.percentile(99)), micros(floor.percentile(99))),
        beside("CPU", used.0, used.1).at_most(1.3),
        noting("p50", micros(noted.median()), micros(floor.median())),
        noting("CPU", used.2, used.1),
        Row::alone("peak memory deliver-message", "MB", rig.worker.peak_memory()? as f64 / 1e6).at_most(64.0),
    ];

    bench.progress("sending: with 20 ms a round trip");
    let port = delayed(rig.server.ports().submissions, DELAY).await?.port;
    rig.owner
        .execute("update email_accounts set smtp_port = $2 where id = $1", &[&rig.account, &i32::from(port)])
        .await?;
    let mut late = Times::default();
    for _ in 0..bench.rounds(DELAYED_ROUNDS) {
        late.0.push(rig.send().await?);
    }
    let trips = late.median().as_secs_f64() / (2.0 * DELAY.as_secs_f64());
    rows.push(
        Row::alone("a message sent, round trips to the mail host with TCP and TLS", "", trips.floor()).at_most(8.0),
    );
    Ok(rows)
}

/// An account that sends, and keeps no copies: a mailbox of POP3 has no folder for them.
struct Rig {
    server: Dovecot,
    caller: Caller,
    account: Uuid,
    owner: Client,
    endpoint: Environment,
    worker: Environment,
    floor: Environment,
    /// The same, with notes that say nothing.
    noted: Environment,
}

impl Rig {
    async fn new(bench: &Bench) -> Result<Self> {
        let server = Dovecot::start()?;
        server.add_user(MAILBOX, PASSWORD)?;
        let caller = Caller::new()?;
        let mut settings = account(MAILBOX);
        let own = json!({
            "protocol": "pop3", "hostname": HOST, "port": server.ports().pop3s, "username": MAILBOX,
            "smtpHostname": HOST, "smtpPort": server.ports().submissions, "smtpEncryption": "tls",
        });
        settings.as_object_mut().into_iter().zip(own.as_object()).for_each(|(all, own)| all.extend(own.clone()));
        let event = caller.event("create-account", None, Some(settings))?;
        let answer = bench.start("create-account", DATABASE)?.invoke(&event)?;
        ensure_good(&answer)?;
        let created: Value = serde_json::from_str(answer.json()?["body"].as_str().context("no body")?)?;
        let certificates = ("SSL_CERT_FILE".to_owned(), server.ca_file().display().to_string());
        let mut env = bench.env(DATABASE);
        // Nobody is asked there.
        env.push(("MAIL_BUCKET".to_owned(), "none".to_owned()));
        env.extend(["SEND_PER_HOUR", "USER_SEND_PER_HOUR"].map(|name| (name.to_owned(), "0".to_owned())));
        let endpoint = Environment::start(&bench.binary("send-message")?, &env)?;
        env.extend(bench.sealing.mail_env(bench.postgres.mail_url(DATABASE)));
        let words = [("MAIL_PRIVATE_NETWORKS", "127.0.0.0/8"), ("MAIL_PORTS", "*")];
        env.extend(words.map(|(name, value)| (name.to_owned(), value.to_owned())));
        env.push(certificates.clone());
        Ok(Self {
            caller,
            account: created["id"].as_str().context("no id")?.parse()?,
            owner: bench.owner(DATABASE).await?,
            endpoint,
            worker: Environment::start(&bench.binary("deliver-message")?, &env)?,
            floor: Environment::start(&bench.binary("mail-floor")?, std::slice::from_ref(&certificates))?,
            noted: {
                let mut env = bench.env(DATABASE);
                env.push(certificates);
                Environment::start(&bench.binary("mail-floor")?, &env)?
            },
            server,
        })
    }

    /// Puts a message into the outbox, and has it sent; how long that took.
    async fn send(&mut self) -> Result<Duration> {
        let message = json!({
            "accountId": self.account, "to": [{"name": "John", "address": "john@example.com"}], "subject": "The report",
            "text": "A line of text such as people write them to each other.\r\n".repeat(LINES),
        });
        ensure_good(&self.endpoint.invoke(&self.caller.event("send-message", None, Some(message))?)?)?;
        let doorbell = json!({ "tenantId": self.caller.tenant, "userId": self.caller.user, "accountId": self.account });
        let attributes = json!({ "ApproximateReceiveCount": "1", "SentTimestamp": "1" });
        let event =
            json!({ "Records": [{ "messageId": "m", "body": doorbell.to_string(), "attributes": attributes }] });
        let answer = self.worker.invoke(event.to_string().as_bytes())?;
        ensure!(answer.json()?["batchItemFailures"] == json!([]), "the worker failed: {}", answer.json()?);
        let sql =
            "select status, response from email_outbox where account_id = $1 order by created_at desc, id desc limit 1";
        let row = self.owner.query_one(sql, &[&self.account]).await?;
        let (status, response): (String, Option<String>) = (row.get(0), row.get(1));
        ensure!(status == "sent", "the message is {status}: {response:?}");
        Ok(answer.took)
    }

    /// What the bare client says, with the bytes that came last.
    fn said(&self) -> Result<Value> {
        let delivery = self.server.sink().deliveries().pop().context("nothing was sent")?;
        let message = String::from_utf8(delivery.message)?;
        ensure!(!message.contains("\n."), "its dots would have to be doubled");
        let login = BASE64_STANDARD.encode(format!("\0{MAILBOX}\0{PASSWORD}"));
        let envelope = format!("MAIL FROM:<{MAILBOX}>\r\nRCPT TO:<john@example.com>\r\nDATA\r\n");
        let flights = [
            ("EHLO [127.0.0.1]\r\n".to_owned(), 1),
            (format!("AUTH PLAIN {login}\r\n"), 1),
            (envelope, 3),
            (format!("{message}.\r\n"), 1),
            ("QUIT\r\n".to_owned(), 1),
        ];
        Ok(json!({ "host": HOST, "port": self.server.ports().submissions, "flights": flights }))
    }

    fn send_bare(floor: &mut Environment, said: &Value) -> Result<Duration> {
        let answer = floor.invoke(said.to_string().as_bytes())?;
        let answers = answer.json()?["answers"].clone();
        let is_taken = answers.get(5).and_then(Value::as_str).is_some_and(|reply| reply.starts_with("250 "));
        ensure!(is_taken, "the bare client was refused: {answers}");
        Ok(answer.took)
    }
}
