//! `cargo bench`: what the release binaries cost, beside what nothing could do for less, in one run.
//!
//! The functions run as Lambda runs them, one event at a time over the runtime API (`local::environment`), and take
//! turns with `benches/floor`, so that whatever the machine does meanwhile happens to both.

mod actions;
mod capacity;
mod cold;
mod context;
mod crowd;
mod machine;
mod messages;
mod peer;
mod reading;
mod report;
mod requests;
mod scale;
mod sending;
mod sign_in;
mod sync;
mod warm;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use local::{
    build::build_functions,
    environment::Environment,
    install::{Tool, ensure_installed},
    services::{Postgres, Redis},
    template, workspace_root,
};
use tokio_postgres::{Client, NoTls};

use crate::functions::SealingKeys;

use machine::Machine;
use report::Row;
use requests::JWT_KEY;

/// The command line.
pub(crate) struct Options {
    accounts: u64,
    messages: u64,
    mailbox: usize,
    only: Option<String>,
    quick: bool,
    record: bool,
    peer: Option<peer::Peer>,
}

/// What a quick run divides its rounds by, and how much its large tables have: about a second for each row.
const QUICKER: usize = 20;
const QUICK_ACCOUNTS: u64 = 2 * scale::FEW;
const QUICK_MESSAGES: u64 = 2 * messages::FEW;
const QUICK_MAILBOX: usize = 400;

const SECTIONS: [&str; 13] = [
    "size", "cold", "warm", "sign-in", "sync", "reading", "actions", "sending", "context", "crowd", "scale",
    "messages", "capacity",
];

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            accounts: 1_000_000,
            messages: 1_000_000,
            mailbox: sync::MESSAGES,
            only: None,
            quick: false,
            record: false,
            peer: None,
        };
        let mut headers = Vec::new();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--accounts" => {
                    let count = value()?.parse().ok().filter(|count| *count >= scale::FEW);
                    options.accounts =
                        count.with_context(|| format!("--accounts needs a number from {}", scale::FEW))?;
                }
                "--messages" => {
                    let count = value()?.parse().ok().filter(|count| *count >= messages::FEW);
                    options.messages =
                        count.with_context(|| format!("--messages needs a number from {}", messages::FEW))?;
                }
                "--mailbox" => {
                    let count = value()?.parse().ok().filter(|count| *count >= QUICK_MAILBOX);
                    options.mailbox =
                        count.with_context(|| format!("--mailbox needs a number from {QUICK_MAILBOX}"))?;
                }
                "--only" => {
                    let section = value()?.clone();
                    ensure!(SECTIONS.contains(&section.as_str()), "--only needs one of {}", SECTIONS.join(", "));
                    options.only = Some(section);
                }
                "--quick" => {
                    (options.quick, options.accounts, options.messages) = (true, QUICK_ACCOUNTS, QUICK_MESSAGES);
                    options.mailbox = QUICK_MAILBOX;
                }
                "--record" => options.record = true,
                "--peer" => options.peer = Some(peer::Peer::parse(value()?)?),
                "--peer-header" => {
                    let (name, value) = value()?.split_once(':').context("--peer-header needs `Name: value`")?;
                    headers.push((name.trim().to_owned(), value.trim().to_owned()));
                }
                other => bail!("unknown option {other}"),
            }
        }
        if let Some(peer) = &mut options.peer {
            peer.headers = headers;
        }
        ensure!(!(options.quick && options.record), "figures of a quick run are not recorded");
        Ok(options)
    }
}

/// What all sections work with.
struct Bench {
    postgres: Postgres,
    redis: Redis,
    binaries: PathBuf,
    functions: Vec<String>,
    /// Those of them that log in to read.
    readers: Vec<String>,
    sealing: SealingKeys,
    /// Names of the binaries that this run has built.
    built: Vec<String>,
    quick: bool,
    started: Instant,
}

/// What is measured beside the functions.
const FLOORS: [&str; 5] = ["crypto", "floor", "hello-world", "mail-floor", "sync-floor"];

const DATABASE: &str = "app";

pub(crate) async fn run(options: Options) -> Result<()> {
    ensure_installed(&[Tool::PostgreSql, Tool::Redis, Tool::PgBouncer, Tool::Dovecot])?;
    let functions = template::routes(&workspace_root().join("template.yaml"))?;
    let readers = functions.iter().filter(|function| function.only_reads).map(|function| function.binary.clone());
    let readers: Vec<String> = readers.collect();
    let functions: Vec<String> = functions.into_iter().map(|function| function.binary).collect();
    let built: Vec<String> = match options.only.as_deref() {
        Some("cold") => cold::BINARIES.map(str::to_owned).to_vec(),
        Some("warm") => warm::BINARIES.map(str::to_owned).to_vec(),
        Some("sync") => sync::BINARIES.map(str::to_owned).to_vec(),
        Some("sending") => sending::BINARIES.map(str::to_owned).to_vec(),
        Some("reading") => reading::BINARIES.map(str::to_owned).to_vec(),
        Some("actions") => actions::BINARIES.map(str::to_owned).to_vec(),
        Some("scale") => scale::BINARIES.map(str::to_owned).to_vec(),
        Some("messages") => vec![messages::BINARY.to_owned()],
        Some("capacity") => capacity::BINARIES.map(str::to_owned).to_vec(),
        _ => functions.iter().cloned().chain(FLOORS.map(str::to_owned)).collect(),
    };
    match options.quick {
        true => {
            eprintln!("Building for development: a quick run shows that all is there, and no figure of it counts ...")
        }
        false => eprintln!("Building for release; the first time takes minutes ..."),
    }
    let binaries = build_functions(!options.quick, &built)?;
    let settings = ["track_activity_query_size=16384", "shared_buffers=512MB", "max_wal_size=8GB", "autovacuum=off"];
    let bench = Bench {
        postgres: Postgres::start_with(&settings)?,
        redis: Redis::start()?,
        binaries,
        functions,
        readers,
        sealing: SealingKeys::new()?,
        built,
        quick: options.quick,
        started: Instant::now(),
    };
    bench.new_database(DATABASE).await?;

    let mut machine = Machine::new()?;
    let mut rows = Vec::new();
    if let Some(peer) = &options.peer {
        rows.extend(peer::measure(&bench, peer).await?);
    } else {
        for section in SECTIONS.into_iter().filter(|section| options.only.as_ref().is_none_or(|only| only == section)) {
            if !bench.quick {
                machine.look()?;
            }
            rows.extend(match section {
                "size" => report::sizes(&bench)?,
                "cold" => cold::measure(&bench).await?,
                "warm" => warm::measure(&bench).await?,
                "sign-in" => sign_in::measure(&bench).await?,
                "sync" => sync::measure(&bench, options.mailbox).await?,
                "reading" => reading::measure(&bench).await?,
                "actions" => actions::measure(&bench).await?,
                "sending" => sending::measure(&bench).await?,
                "context" => context::measure(&bench).await?,
                "crowd" => crowd::measure(&bench).await?,
                "scale" => scale::measure(&bench, options.accounts).await?,
                "messages" => messages::measure(&bench, options.messages).await?,
                _ => capacity::measure(&bench, options.accounts, options.record).await?,
            });
        }
    }
    if bench.quick {
        return report::finish_quickly(&rows, bench.started.elapsed());
    }
    machine.look()?;
    // Capacity alone has its own document.
    let record = options.record && options.only.as_deref() != Some("capacity");
    report::finish(&rows, &machine, bench.started.elapsed(), record)
}

impl Bench {
    fn progress(&self, text: &str) {
        eprintln!("[{:>3} s] {text}", self.started.elapsed().as_secs());
    }

    async fn new_database(&self, name: &str) -> Result<()> {
        self.postgres.create_database(name).await?;
        migrate::apply(&self.postgres.owner_url(name), &self.postgres.role_urls(name)).await?;
        Ok(())
    }

    async fn owner(&self, database: &str) -> Result<Client> {
        let (client, connection) = tokio_postgres::connect(&self.postgres.owner_url(database), NoTls).await?;
        // Ends with the client; its errors reach us as those of the statement.
        tokio::spawn(connection);
        Ok(client)
    }

    /// The environment of a function, and of the floor.
    fn env(&self, database: &str) -> Vec<(String, String)> {
        let pairs = [
            ("DATABASE_URL", self.postgres.app_url(database)),
            ("REDIS_URL", self.redis.url()),
            ("JWT_SECRET_KEY", JWT_KEY.to_owned()),
            ("SEALING_PUBLIC_KEY", self.sealing.public.clone()),
            // Counted like any other, and never refused.
            ("RATE_LIMIT_PER_MINUTE", u32::MAX.to_string()),
            // As on Lambda: the log lines carry metrics.
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
            // Otherwise they would insist on TLS, as they do there.
            ("AWS_SAM_LOCAL", "true".to_owned()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    fn start(&self, binary: &str, database: &str) -> Result<Environment> {
        let mut env = self.env(database);
        if self.readers.iter().any(|reader| reader == binary) {
            // Of one name, the last value counts.
            env.push(("DATABASE_URL".to_owned(), self.postgres.reader_url(database)));
        }
        Environment::start(&self.binary(binary)?, &env)
    }

    /// One that this run has built: another may lie there from some other day, or not at all.
    fn binary(&self, name: &str) -> Result<PathBuf> {
        ensure!(self.built.iter().any(|built| built == name), "{name} is to be measured and was not built");
        Ok(self.binaries.join(name))
    }

    /// How often to do what a whole run does so often.
    fn rounds(&self, whole: usize) -> usize {
        if self.quick { whole.div_ceil(QUICKER) } else { whole }
    }
}

/// Many measurements of one thing.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    fn median(&self) -> Duration {
        self.percentile(50)
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn target_directory() -> PathBuf {
    Path::new(&workspace_root()).join("target")
}
