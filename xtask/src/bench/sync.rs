//! Synchronising a mailbox of a real Dovecot, beside a bare client that sends the same commands, throws away what comes,
//! and copies the same rows into a table: for the first time, when nothing has changed, and when a little has; also with
//! 20 ms between us and the mail host.

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use local::{
    emulator::Emulator,
    environment::{Environment, processor_time},
    event_sources::EventSources,
    gateway::{self, Gateway},
    mail_server::Dovecot,
    template, workspace_root,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::{sleep, sleep_until},
};
use tokio_postgres::Client;
use uuid::Uuid;

use super::{
    Bench, DATABASE, Row, Times, micros,
    requests::{Caller, PASSWORD, account, ensure_good},
};

/// What is run here: the other functions take minutes to build.
pub(super) const BINARIES: [&str; 4] = ["create-account", "schedule-work", "sync-account", "sync-floor"];

const HOST: &str = "127.0.0.1";
const FOLDERS: usize = 10;
/// As many as the targets are for.
pub(super) const MESSAGES: usize = 20_000;
/// Who waits for an answer gives up after some seconds.
const FILLED_AT_ONCE: usize = 5_000;
const FIRST_ROUNDS: usize = 3;
const UNCHANGED_ROUNDS: usize = 60;
/// Where nothing else takes long: the medians of sixty were up to 5 % apart.
const NEAR_UNCHANGED_ROUNDS: usize = 400;
const DELTA_ROUNDS: usize = 20;
const RUNG_ROUNDS: usize = 40;
/// One way; a round trip is two of them.
const DELAY: Duration = Duration::from_millis(10);
const FIELDS: &str = "UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (DATE FROM TO CC BCC REPLY-TO SUBJECT \
                      MESSAGE-ID IN-REPLY-TO REFERENCES CONTENT-TYPE CONTENT-TRANSFER-ENCODING)]";
/// How many of each folder come with the beginning of their texts at first.
const NEWEST: usize = 200;

pub(super) async fn measure(bench: &Bench, messages: usize) -> Result<Vec<Row>> {
    bench.progress(&format!("synchronising: filling a mailbox with {messages} messages"));
    let mut rig = Rig::new(bench, DATABASE, "jane@mail.example").await?;
    rig.fill(0, messages)?;
    if messages > MESSAGES {
        return rig.large(messages).await;
    }
    let (mut rows, links) = (Vec::new(), [("", None), (", 20 ms a round trip", Some(DELAY))]);
    for (name, delay) in links {
        rows.extend(rig.first(name, delay, messages).await?);
    }
    for (name, delay) in links {
        rows.extend(rig.unchanged(name, delay).await?);
        rows.extend(rig.delta(name, delay, messages).await?);
    }
    rows.push(rung(bench).await?);
    Ok(rows)
}

/// Nothing has changed, and nobody hands the worker its event: the schedule sees who is due and rings, and the queue, an
/// emulator's, is polled as Lambda does it. In a database of its own, for elsewhere others are due as well.
async fn rung(bench: &Bench) -> Result<Row> {
    bench.progress("synchronising: from the schedule, through the queue");
    bench.new_database("rung").await?;
    let mut rig = Rig::new(bench, "rung", "joan@mail.example").await?;
    rig.fill(0, 10 * FOLDERS)?;
    rig.rung().await
}

/// What a job costs.
pub(super) struct Job {
    pub(super) time: Duration,
    pub(super) cpu: Duration,
    /// Of the processors of PostgreSQL.
    pub(super) database: Duration,
    /// Transactions that write.
    pub(super) transactions: f64,
    /// To the mail host and back, TLS included.
    pub(super) bytes: u64,
}

/// What jobs cost whose mail host is 20 ms away, in a database that is full already: the first synchronisation of so many
/// messages, and one when nothing has changed. And the most memory that the worker had.
pub(super) async fn jobs(bench: &Bench, database: &str, messages: usize) -> Result<(Job, Job, u64)> {
    bench.progress(&format!("capacity: a mailbox with {messages} messages"));
    let mut rig = Rig::new(bench, database, "jane@mail.example").await?;
    rig.fill(0, messages)?;
    let link = delayed(rig.server.ports().imaps, DELAY).await?;
    rig.look_at(link.port).await?;
    let mut worker = rig.start("sync-account")?;
    let first = rig.cost(&mut worker, &link, 1).await?;
    // By the folders: an account's messages are found by reading all.
    let sql = "select sum(stored)::bigint from email_folders where account_id = $1";
    let stored: i64 = rig.owner.query_one(sql, &[&rig.account]).await?.get(0);
    ensure!(stored == messages as i64, "{stored} of {messages} messages came at once");
    // It looks once more where it has been at work.
    rig.cost(&mut worker, &link, 2).await?;
    let unchanged = rig.cost(&mut worker, &link, bench.rounds(UNCHANGED_ROUNDS)).await?;
    Ok((first, unchanged, worker.peak_memory()?))
}

/// A mailbox, the account of it, and the bare client.
pub(super) struct Rig<'a> {
    pub(super) bench: &'a Bench,
    database: String,
    pub(super) server: Dovecot,
    mailbox: String,
    pub(super) caller: Caller,
    pub(super) account: Uuid,
    pub(super) owner: Client,
    pub(super) floor: Environment,
    directory: PathBuf,
}

impl<'a> Rig<'a> {
    pub(super) async fn new(bench: &'a Bench, database: &str, mailbox: &str) -> Result<Self> {
        let server = Dovecot::start()?;
        server.add_user(mailbox, PASSWORD)?;
        let caller = Caller::new()?;
        let mut settings = account(mailbox);
        settings["hostname"] = HOST.into();
        settings["port"] = server.ports().imaps.into();
        settings["username"] = mailbox.into();
        let answer = bench.start("create-account", database)?.invoke(&caller.event(
            "create-account",
            None,
            Some(settings),
        )?)?;
        ensure_good(&answer)?;
        let created: Value = serde_json::from_str(answer.json()?["body"].as_str().context("no body")?)?;
        let env = [
            ("DATABASE_URL", bench.postgres.owner_url(database)),
            ("SSL_CERT_FILE", server.ca_file().display().to_string()),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value));
        Ok(Self {
            bench,
            mailbox: mailbox.to_owned(),
            caller,
            account: created["id"].as_str().context("no id")?.parse()?,
            owner: bench.owner(database).await?,
            database: database.to_owned(),
            floor: Environment::start(&bench.binary("sync-floor")?, &env)?,
            directory: std::env::temp_dir().join(format!("email-service-bench-{}", Uuid::now_v7())),
            server,
        })
    }

    fn folder(index: usize) -> String {
        if index == 0 { "INBOX".to_owned() } else { format!("Folder{index}") }
    }

    pub(super) fn login(&self) -> String {
        format!("a1 LOGIN {} \"{PASSWORD}\"\r\n", self.mailbox)
    }

    /// Commands, in rounds, as files. A round without any is the goodbye, as the service says it: once all has come. Said
    /// right behind long answers, it was seen to end the connection before all of them were here.
    fn files(&self, rounds: &[String]) -> Result<Vec<String>> {
        fs::create_dir_all(&self.directory)?;
        let write = |(index, round): (usize, &String)| {
            let file = self.directory.join(format!("round-{index}"));
            let end = if round.is_empty() { "LOGOUT" } else { "NOOP" };
            fs::write(&file, format!("{round}end {end}\r\n"))?;
            Ok(file.display().to_string())
        };
        rounds.iter().enumerate().map(write).collect()
    }

    /// Says it, and throws away what comes.
    pub(super) fn say(&mut self, port: u16, rounds: &[String], copy: Option<(&str, &str)>) -> Result<Duration> {
        let rounds = self.files(rounds)?;
        let event = json!({ "host": HOST, "port": port, "rounds": rounds, "copy": copy });
        let answer = self.floor.invoke(event.to_string().as_bytes())?;
        ensure!(answer.json()?["bytes"].as_u64().is_some(), "the bare client failed: {}", answer.json()?);
        Ok(answer.took)
    }

    pub(super) fn fill(&mut self, start: usize, count: usize) -> Result<()> {
        let port = self.server.ports().imaps;
        let creates: String = (1..FOLDERS).map(|folder| format!("a2 CREATE {}\r\n", Self::folder(folder))).collect();
        self.say(port, &[self.login() + &creates], None)?;
        for first in (start..start + count).step_by(FILLED_AT_ONCE) {
            let mut said = self.login();
            for number in first..(first + FILLED_AT_ONCE).min(start + count) {
                let message = message(number);
                let folder = Self::folder(number % FOLDERS);
                write!(said, "a3 APPEND {folder} {{{}+}}\r\n{message}\r\n", message.len())?;
            }
            self.say(port, &[said], None)?;
        }
        Ok(())
    }

    /// A function that reaches this mailbox.
    pub(super) fn start(&self, function: &str) -> Result<Environment> {
        let mut env = self.env();
        env.extend(self.mail_env());
        Environment::start(&self.bench.binary(function)?, &env)
    }

    fn mail_env(&self) -> Vec<(String, String)> {
        self.bench.sealing.mail_env(self.bench.postgres.mail_url(&self.database))
    }

    fn env(&self) -> Vec<(String, String)> {
        let mut env = self.bench.env(&self.database);
        let words = [
            ("MAIL_PRIVATE_NETWORKS", "127.0.0.0/8".to_owned()),
            ("MAIL_PORTS", "*".to_owned()),
            ("SSL_CERT_FILE", self.server.ca_file().display().to_string()),
        ];
        env.extend(words.map(|(name, value)| (name.to_owned(), value)));
        env
    }

    /// Rings; how long it took, and whether more is left.
    pub(super) async fn sync(&self, worker: &mut Environment) -> Result<(Duration, bool)> {
        self.ring().await?;
        let doorbell = json!({ "tenantId": self.caller.tenant, "userId": self.caller.user, "accountId": self.account })
            .to_string();
        let attributes = json!({ "ApproximateReceiveCount": "1", "SentTimestamp": "1" });
        let event = json!({ "Records": [{ "messageId": "m", "body": doorbell, "attributes": attributes }] });
        let answer = worker.invoke(event.to_string().as_bytes())?;
        ensure!(answer.json()?["batchItemFailures"] == json!([]), "the worker failed: {}", answer.json()?);
        Ok((answer.took, self.look().await?))
    }

    async fn ring(&self) -> Result<()> {
        self.owner.execute("update email_accounts set rung_at = 1 where id = $1", &[&self.account]).await?;
        Ok(())
    }

    /// Whether more is left.
    async fn look(&self) -> Result<bool> {
        let sql = "select state, last_error_message, rung_at is not null from email_accounts where id = $1";
        let row = self.owner.query_one(sql, &[&self.account]).await?;
        let (state, error, more): (String, Option<String>, bool) = (row.get(0), row.get(1), row.get(2));
        ensure!(state == "connected", "the account is {state}: {error:?}");
        Ok(more)
    }

    /// Of one in so many.
    async fn cost(&self, worker: &mut Environment, link: &Delayed, rounds: usize) -> Result<Job> {
        let mut times = Times::default();
        let (busy, number) = (self.busy().await?, self.next_transaction().await?);
        let (cpu, bytes) = (worker.cpu_time()?, link.carried.load(Ordering::Relaxed));
        for _ in 0..rounds {
            times.0.push(self.sync(worker).await?.0);
        }
        let (cpu, bytes) = (worker.cpu_time()? - cpu, link.carried.load(Ordering::Relaxed) - bytes);
        // What we say ourselves is not the worker's.
        let (with_ours, number_with_ours) = (self.busy().await?, self.next_transaction().await?);
        for _ in 0..rounds {
            self.ring().await?;
            self.look().await?;
        }
        let ours = self.busy().await?.saturating_sub(with_ours);
        let transactions = 2 * number_with_ours - number - self.next_transaction().await?;
        let each = |total: Duration| total / u32::try_from(rounds).unwrap_or(u32::MAX);
        Ok(Job {
            time: times.median(),
            cpu: each(cpu),
            database: each(with_ours.saturating_sub(busy).saturating_sub(ours)),
            transactions: transactions as f64 / rounds as f64,
            bytes: bytes / rounds as u64,
        })
    }

    /// What all processes of PostgreSQL have had of processors so far.
    async fn busy(&self) -> Result<Duration> {
        let processes = self.owner.query("select pid from pg_stat_activity", &[]).await?;
        let times = processes.iter().map(|row| processor_time(row.get::<_, i32>(0).unsigned_abs()));
        Ok(times.filter_map(Result::ok).sum())
    }

    /// Only transactions that write have a number.
    async fn next_transaction(&self) -> Result<i64> {
        let sql = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
        Ok(self.owner.query_one(sql, &[]).await?.get(0))
    }

    async fn forget(&self) -> Result<()> {
        for table in ["email_messages", "email_folders"] {
            self.owner.execute(&format!("delete from {table} where account_id = $1"), &[&self.account]).await?;
            self.owner.batch_execute(&format!("vacuum {table}")).await?;
        }
        Ok(())
    }

    /// How many messages are here, each with its header but for those of a fiftieth that have none.
    async fn stored(&self) -> Result<i64> {
        let sql = "select count(*), count(*) filter (where not is_readable) from email_messages where account_id = $1";
        let row = self.owner.query_one(sql, &[&self.account]).await?;
        let (stored, unreadable): (i64, i64) = (row.get(0), row.get(1));
        ensure!(unreadable <= stored / 50 + 10, "{unreadable} of {stored} messages came without their headers");
        Ok(stored)
    }

    /// What a mailbox costs that is larger than those that a bare client is measured with, above all in memory: when it comes
    /// for the first time, and when it grows by a tenth at once.
    async fn large(&mut self, messages: usize) -> Result<Vec<Row>> {
        let mut worker = self.start("sync-account")?;
        let mut rows = Vec::new();
        for (name, start, count) in [("first synchronisation", 0, 0), ("a tenth more", 2 * messages, messages / 10)] {
            self.bench.progress(&format!("synchronising: {name}"));
            if count > 0 {
                self.fill(start, count)?;
            }
            let (mut took, mut more) = (Duration::ZERO, true);
            while more {
                let (turn, rest) = self.sync(&mut worker).await?;
                (took, more) = (took + turn, rest);
            }
            let stored = self.stored().await?;
            ensure!(stored == (messages + count) as i64, "{stored} of {} messages came", messages + count);
            rows.push(Row::alone(format!("{name}, {messages} messages: time"), "ms", micros(took) / 1e3));
        }
        let peak = worker.peak_memory()? as f64 / 1e6;
        rows.push(Row::alone(format!("sync-account, {messages} messages: peak memory"), "MB", peak).at_most(64.0));
        Ok(rows)
    }

    /// The first synchronisation, beside fetching the same and copying the same rows.
    async fn first(&mut self, name: &str, delay: Option<Duration>, messages: usize) -> Result<Vec<Row>> {
        self.bench.progress(&format!("synchronising: for the first time{name}"));
        let port = self.reach(delay).await?;
        let mut worker = self.start("sync-account")?;
        let rows_file = self.directory.join("rows").display().to_string();
        let each = messages / FOLDERS;
        let mut fetching = String::new();
        for folder in 0..FOLDERS {
            let (name, newest) = (Self::folder(folder), each.saturating_sub(NEWEST));
            write!(
                fetching,
                "f1 EXAMINE {name}\r\nf2 UID FETCH {}:* ({FIELDS} BODY.PEEK[TEXT]<0.4096>)\r\n",
                newest + 1
            )?;
            if newest > 0 {
                write!(fetching, "f3 UID FETCH 1:{newest} ({FIELDS})\r\n")?;
            }
        }
        let rounds = [self.login(), fetching];
        let (mut ours, mut floor) = (Times::default(), Times::default());
        let (mut our_cpu, mut floor_cpu) = (Duration::ZERO, Duration::ZERO);
        let count = self.bench.rounds(FIRST_ROUNDS);
        for round in 0..count {
            self.forget().await?;
            let before = worker.cpu_time()?;
            let (took, more) = self.sync(&mut worker).await?;
            ensure!(!more && self.stored().await? == messages as i64, "not all messages came at once");
            our_cpu += worker.cpu_time()? - before;
            ours.0.push(took);
            if round == 0 {
                self.copy_out(&rows_file).await?;
                let sql = "create table if not exists floor_messages (like email_messages including all)";
                self.owner.batch_execute(sql).await?;
            }
            self.owner.batch_execute("truncate floor_messages").await?;
            let before = self.floor.cpu_time()?;
            let took = self.say(port, &rounds, Some((&rows_file, "floor_messages")))?;
            floor_cpu += self.floor.cpu_time()? - before;
            floor.0.push(took);
        }
        let what = format!("first synchronisation, {messages} messages{name} ÷ bare fetch and COPY");
        let cpu = |time: Duration| micros(time) / 1000.0 / count as f64;
        let time =
            Row::beside(format!("{what}: time"), "ms", micros(ours.median()) / 1e3, micros(floor.median()) / 1e3);
        Ok(vec![
            time.at_most(1.25),
            Row::beside(format!("{what}: CPU"), "ms", cpu(our_cpu), cpu(floor_cpu)).at_most(3.0),
            Row::alone(
                format!("sync-account, {messages} messages{name}: peak memory"),
                "MB",
                worker.peak_memory()? as f64 / 1e6,
            )
            .at_most(32.0),
        ])
    }

    async fn copy_out(&self, file: &str) -> Result<()> {
        let sql = format!(
            "copy (select * from email_messages where account_id = '{}') to stdout (format binary)",
            self.account
        );
        let rows = self.owner.copy_out(&sql).await?;
        let parts: Vec<_> = rows.try_collect().await?;
        fs::write(file, parts.concat())?;
        Ok(())
    }

    /// What this port is reached at, with a delay.
    async fn reach(&self, delay: Option<Duration>) -> Result<u16> {
        let port = match delay {
            Some(delay) => delayed(self.server.ports().imaps, delay).await?.port,
            None => self.server.ports().imaps,
        };
        self.look_at(port).await
    }

    async fn look_at(&self, port: u16) -> Result<u16> {
        let sql = "update email_accounts set port = $2 where id = $1";
        self.owner.execute(sql, &[&self.account, &i32::from(port)]).await?;
        Ok(port)
    }

    async fn unchanged(&mut self, name: &str, delay: Option<Duration>) -> Result<Vec<Row>> {
        self.bench.progress(&format!("synchronising: nothing has changed{name}"));
        let port = self.reach(delay).await?;
        let mut worker = self.start("sync-account")?;
        let list =
            "a2 LIST \"\" \"*\" RETURN (SPECIAL-USE STATUS (MESSAGES UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ))\r\n";
        let rounds = [self.login(), list.to_owned(), String::new()];
        self.sync(&mut worker).await?;
        self.say(port, &rounds, None)?;
        let (mut ours, mut floor) = (Times::default(), Times::default());
        let turns = if delay.is_some() { UNCHANGED_ROUNDS } else { NEAR_UNCHANGED_ROUNDS };
        for _ in 0..self.bench.rounds(turns) {
            ours.0.push(self.sync(&mut worker).await?.0);
            floor.0.push(self.say(port, &rounds, None)?);
        }
        let (ours, floor) = (micros(ours.median()) / 1e3, micros(floor.median()) / 1e3);
        let row =
            Row::beside(format!("nothing changed, {FOLDERS} folders{name} ÷ bare client: p50"), "ms", ours, floor);
        Ok(vec![row.at_most(1.3)])
    }

    /// See [`rung`].
    async fn rung(&mut self) -> Result<Row> {
        let emulator = Emulator::start()?;
        let file = workspace_root().join("template.yaml");
        let queues = emulator.make(&template::queues(&file)?).await?;
        let mut functions = template::routes(&file)?;
        functions.retain(|function| ["schedule-work", "sync-account"].contains(&&*function.binary));
        let mut options = gateway::Options::new(functions.clone(), self.bench.binaries.clone());
        options.log = Arc::new(|_, _| {});
        options.env = self.env();
        let bucket = emulator.make_bucket().await?;
        options.env.extend(queues.env().iter().chain(bucket.env()).cloned());
        options.mail_env = self.mail_env();
        let [_, _, scheduler_url, _] = self.bench.postgres.role_urls(&self.database);
        options.scheduler_env = vec![("DATABASE_URL".to_owned(), scheduler_url)];
        let gateway = Gateway::start(options).await?;
        let sources = EventSources::start(&gateway, &functions, Some(&queues))?;
        let mut times = Times::default();
        for round in 0..=self.bench.rounds(RUNG_ROUNDS) {
            let sql = "update email_accounts set next_sync_at = 1, last_sync_at = 1 where id = $1";
            self.owner.execute(sql, &[&self.account]).await?;
            let start = Instant::now();
            let answer = sources.tick("schedule-work").await?;
            ensure!(answer.is_ok(), "the schedule failed: {answer:?}");
            let sql = "select last_sync_at > 1 and leased_until is null from email_accounts where id = $1";
            while !self.owner.query_one(sql, &[&self.account]).await?.get::<_, bool>(0) {
                ensure!(start.elapsed() < Duration::from_secs(30), "nobody came who was rung for");
                sleep(Duration::from_millis(1)).await;
            }
            // The first one starts both functions.
            if round > 0 {
                times.0.push(start.elapsed());
            }
        }
        drop(sources);
        gateway.shutdown().await;
        let what = "nothing changed, 10 folders, from the schedule's turn and through an emulated queue: p50";
        Ok(Row::alone(what, "ms", micros(times.median()) / 1e3))
    }

    /// 1 % came, of 1 % the flags changed, 0.5 % are gone.
    async fn delta(&mut self, name: &str, delay: Option<Duration>, messages: usize) -> Result<Vec<Row>> {
        self.bench.progress(&format!("synchronising: a little has changed{name}"));
        let port = self.reach(delay).await?;
        let mut worker = self.start("sync-account")?;
        self.sync(&mut worker).await?;
        let (mut ours, mut floor) = (Times::default(), Times::default());
        let (came, gone) = ((messages / 100).max(FOLDERS), (messages / 200 / FOLDERS).max(1));
        let mut there = self.stored().await?;
        for round in 0..self.bench.rounds(DELTA_ROUNDS) {
            let sql =
                "select path, uid_validity, modseq, uid_next from email_folders where account_id = $1 and stored > 0";
            let before = self.owner.query(sql, &[&self.account]).await?;
            let (mut changes, mut asked, mut fetched) = (self.login(), String::new(), String::new());
            for folder in &before {
                let (path, validity, modseq, next): (String, i64, i64, i64) =
                    (folder.get(0), folder.get(1), folder.get(2), folder.get(3));
                let lowest = "select min(uid) from email_messages m join email_folders f on f.id = m.folder_id
                              where m.account_id = $1 and f.path = $2";
                let first: Option<i64> = self.owner.query_one(lowest, &[&self.account, &path]).await?.get(0);
                let first = first.context("an empty folder")?;
                let (last_gone, last_marked) = (first + gone as i64 - 1, first + (3 * gone) as i64 - 1);
                let sign = if round % 2 == 0 { '+' } else { '-' };
                write!(
                    changes,
                    "c1 SELECT {path}\r\nc2 UID STORE {first}:{last_gone} +FLAGS.SILENT (\\Deleted)\r\nc3 EXPUNGE\r\n\
                     c4 UID STORE {}:{last_marked} {sign}FLAGS.SILENT (\\Seen)\r\n",
                    last_gone + 1
                )?;
                write!(asked, "q1 EXAMINE {path} (QRESYNC ({validity} {modseq}))\r\n")?;
                write!(fetched, "q2 EXAMINE {path}\r\nq3 UID FETCH {next}:* ({FIELDS} BODY.PEEK[TEXT]<0.4096>)\r\n")?;
            }
            self.say(self.server.ports().imaps, &[changes], None)?;
            self.fill((round + 1) * messages * 2, came)?;
            there += came as i64 - (gone * before.len()) as i64;
            let (took, more) = self.sync(&mut worker).await?;
            ours.0.push(took);
            let list = "a2 LIST \"\" \"*\" RETURN (SPECIAL-USE STATUS (MESSAGES UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ))\r\n";
            let enable = format!("a0 ENABLE QRESYNC\r\n{list}");
            let rounds = [self.login(), enable, asked, fetched, String::new()];
            floor.0.push(self.say(port, &rounds, None)?);
            let stored = self.stored().await?;
            ensure!(!more && stored == there, "{stored} messages are here, and {there} at the server");
        }
        let (ours, floor) = (micros(ours.median()) / 1e3, micros(floor.median()) / 1e3);
        let what = format!("1 % new, 1 % flags, 0.5 % gone of {messages}{name} ÷ bare client: p50");
        Ok(vec![Row::beside(what, "ms", ours, floor).at_most(2.0)])
    }
}

impl Drop for Rig<'_> {
    fn drop(&mut self) {
        // A file that stays behind is the system's to remove.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A message as there are many: most with names and subjects in other letters, some with a file, some as they should not be.
fn message(number: usize) -> String {
    let head = format!(
        "From: =?utf-8?q?J=C3=BCrgen_{number}?= <j{number}@example.com>\r\nTo: Jane Doe <jane@mail.example>\r\n\
         Subject: =?utf-8?b?R3LDvMOfZQ==?= number {number} of the year\r\nDate: Mon, 2 Nov 2026 10:{:02}:{:02} +0000\r\n\
         Message-ID: <{number}.bench@example.com>\r\nReferences: <{}.bench@example.com>\r\nMIME-Version: 1.0\r\n",
        number / 60 % 60,
        number % 60,
        number / 5,
    );
    let id = format!("Message-ID: <{number}.bench@example.com>\r\n");
    // Of each kind, some in each folder.
    match number / FOLDERS % 50 {
        // No date, and letters that nobody encoded.
        1 => format!("From: Jürgen {number} <j{number}@example.com>\r\nSubject: Grüße\r\n{id}\r\nA line.\r\n"),
        // Nothing in it ends, and no calendar has its day.
        11 => format!(
            "From: \"Jane <<@>\r\nSubject: =?utf-8?q?J=C3=\r\nDate: Mon, 99 Foo 2026 99:99:99 +9999\r\n{id}\r\nA line.\r\n"
        ),
        // Parts of which none is there, in an encoding that they must not have.
        21 => format!(
            "{head}Content-Type: multipart/mixed; boundary=never\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!!\r\n"
        ),
        // All of its header twice.
        31 => format!("{head}{head}\r\nA line.\r\n"),
        // Nothing but its text.
        41 => format!("\r\nThe {number}th line of nobody.\r\n"),
        0 | 10 | 20 | 30 | 40 => format!(
            "{head}Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
             See the file.\r\n--b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename=a.pdf\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n{}\r\n--b--\r\n",
            "JVBERi0xLjQK\r\n".repeat(400)
        ),
        _ => format!(
            "{head}Content-Type: text/plain; charset=utf-8\r\n\r\n{}",
            "A line of text such as people write them to each other.\r\n".repeat(30)
        ),
    }
}

/// A port that leads to another, later.
pub(super) struct Delayed {
    pub(super) port: u16,
    /// Bytes that went through, either way.
    carried: Arc<AtomicU64>,
}

/// A port that leads to this one, later.
pub(super) async fn delayed(port: u16, delay: Duration) -> Result<Delayed> {
    let listener = TcpListener::bind((HOST, 0)).await?;
    let own = listener.local_addr()?.port();
    let carried = Arc::new(AtomicU64::new(0));
    let counter = carried.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect((HOST, port)).await else { continue };
            for stream in [&client, &server] {
                // Without it the delay would be another's.
                let _ = stream.set_nodelay(true);
            }
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(carry(from_client, to_server, delay, counter.clone()));
            tokio::spawn(carry(from_server, to_client, delay, counter.clone()));
        }
    });
    Ok(Delayed { port: own, carried })
}

/// Each piece arrives so much later, however many are on their way.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration, carried: Arc<AtomicU64>) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(4096);
    let reading = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let piece = buffer.get(..count).unwrap_or_default().to_vec();
            carried.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if sender.send((Instant::now() + delay, piece)).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due.into()).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}
