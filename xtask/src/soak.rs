//! `cargo soak`: many tenants at work for minutes while PostgreSQL, Redis and the functions fail under them. Each answer
//! is checked against what the client knows of its accounts; at the end, memory and connections.

mod client;
mod faults;
mod watch;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use local::{
    build::build_functions,
    gateway::{self, Gateway},
    install::{Tool, ensure_installed},
    services::{Postgres, Redis, secret},
    template, workspace_root,
};

use crate::functions::SealingKeys;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

use client::Client;
use watch::Memory;

const DATABASE: &str = "app";
const TENANTS: usize = 6;
const USERS_PER_TENANT: usize = 2;
/// How long after a fault's end a request may still fail of it: a restarted process has to connect.
const AFTERMATH: Duration = Duration::from_secs(3);

/// The command line.
pub(crate) struct Options {
    minutes: f64,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        match arguments {
            [] => Ok(Self { minutes: 5.0 }),
            [option, minutes] if option == "--minutes" => {
                let minutes = minutes.parse().ok().filter(|minutes: &f64| *minutes > 0.0 && minutes.is_finite());
                Ok(Self { minutes: minutes.context("--minutes needs a number")? })
            }
            _ => bail!("the only option is --minutes N"),
        }
    }
}

/// What clients, faults and watchers tell each other.
pub(crate) struct Run {
    until: Instant,
    /// Until when a failure has an excuse; none while a fault lasts.
    excused_until: Mutex<Option<Instant>>,
    answers: Mutex<BTreeMap<(&'static str, u16), u64>>,
    differences: Mutex<Vec<String>>,
}

impl Run {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    fn begin_fault(&self) {
        *lock(&self.excused_until) = None;
    }

    fn end_fault(&self) {
        *lock(&self.excused_until) = Some(Instant::now() + AFTERMATH);
    }

    /// Whether a request that began then may fail.
    fn excuses(&self, began: Instant) -> bool {
        lock(&self.excused_until).is_none_or(|until| began <= until)
    }

    fn count(&self, kind: &'static str, status: u16) {
        *lock(&self.answers).entry((kind, status)).or_default() += 1;
    }

    /// Notes that something was not as the model or the contract has it.
    fn differs(&self, what: String) {
        eprintln!("DIFFERENCE: {what}");
        lock(&self.differences).push(what);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) async fn run(options: Options) -> Result<()> {
    ensure_installed(&[Tool::PostgreSql, Tool::Redis])?;
    let functions = template::routes(&workspace_root().join("template.yaml"))?;
    let binaries = build_functions(false, functions.iter().map(|function| function.binary.as_str()))?;
    let (mut postgres, mut redis) = (Postgres::start()?, Redis::start()?);
    postgres.create_database(DATABASE).await?;
    migrate::apply(&postgres.owner_url(DATABASE), &postgres.role_urls(DATABASE)).await?;

    let run = Arc::new(Run {
        until: Instant::now() + Duration::from_secs_f64(options.minutes * 60.0),
        excused_until: Mutex::new(Some(Instant::now() + AFTERMATH)),
        answers: Mutex::default(),
        differences: Mutex::default(),
    });
    let key = secret();
    let mut gateway_options = gateway::Options::new(functions.clone(), binaries);
    let reader = run.clone();
    gateway_options.log = Arc::new(move |function, line| {
        if line.contains(client::PASSWORD) || line.contains("eyJ") {
            reader.differs(format!("{function} logs a password or a token: {line}"));
        }
    });
    gateway_options.env = [
        ("DATABASE_URL", postgres.app_url(DATABASE)),
        ("REDIS_URL", redis.url()),
        ("JWT_SECRET_KEY", key.clone()),
        ("RATE_LIMIT_PER_MINUTE", "1000000".to_owned()),
        ("ACCOUNTS_PER_USER", "1000000".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();
    let [mail_url, scheduler_url] = [postgres.mail_url(DATABASE), postgres.scheduler_url(DATABASE)];
    SealingKeys::new()?.hand_to(&mut gateway_options, mail_url, scheduler_url);
    let gateway = Gateway::start(gateway_options).await?;
    let address = gateway.url().trim_start_matches("http://").parse()?;

    let mut clients = JoinSet::new();
    for _ in 0..TENANTS {
        let tenant = uuid::Uuid::now_v7();
        for _ in 0..USERS_PER_TENANT {
            clients.spawn(Client::new(tenant, address, &key, run.clone())?.work());
        }
    }
    let names: Vec<&str> = functions.iter().map(|function| function.binary.as_str()).collect();
    let mut memory = Memory::default();
    let faults = faults::strike(&run, &mut postgres, &mut redis, &gateway);
    let (faults, ()) = tokio::join!(faults, memory.watch(&run, &gateway, &names));
    let faults = faults?;

    let mut kept = 0;
    while let Some(client) = clients.join_next().await {
        kept += client??.check_at_the_end().await?;
    }
    let processes = names.iter().filter_map(|name| gateway.pids(name).ok()).flatten().count();
    check_database(&run, &postgres, kept, processes).await?;
    memory.check(&run);

    println!("{:.1} minutes, {TENANTS} tenants of {USERS_PER_TENANT} users", options.minutes);
    for ((kind, status), count) in &*lock(&run.answers) {
        println!("{kind:>16} {status} {count:>8}");
    }
    println!("answers: {}", lock(&run.answers).values().sum::<u64>());
    println!("faults: {faults:?}");
    println!("memory: {memory}");
    let differences = lock(&run.differences).len();
    println!("differences: {differences}");
    gateway.shutdown().await;
    ensure!(differences == 0, "the service and the model differ, see above");
    Ok(())
}

/// Nothing is half there, every account is some client's, and no process holds more than its one connection.
async fn check_database(run: &Run, postgres: &Postgres, kept: usize, processes: usize) -> Result<()> {
    let (owner, connection) = tokio_postgres::connect(&postgres.owner_url(DATABASE), NoTls).await?;
    // Ends with the client; its errors reach us as those of the statement.
    tokio::spawn(connection);
    let count = async |sql: &str| anyhow::Ok(usize::try_from(owner.query_one(sql, &[]).await?.try_get::<_, i64>(0)?)?);
    let halves = count(
        "select count(*) from email_credentials c full join email_accounts a on a.credential_id = c.id
         where a.id is null or c.id is null or (a.tenant_id, a.user_id) <> (c.tenant_id, c.user_id)",
    )
    .await?;
    if halves > 0 {
        run.differs(format!("{halves} accounts or credentials are there without the other"));
    }
    let enabled = count("select count(*) from email_accounts where is_enabled").await?;
    if enabled != kept {
        run.differs(format!("the clients know {kept} accounts, the database has {enabled}"));
    }
    let connections = count("select count(*) from pg_stat_activity where usename = 'email_service_app'").await?;
    if connections > processes {
        run.differs(format!("{processes} processes hold {connections} connections"));
    }
    println!("connections: {connections} of {processes} processes");
    Ok(())
}
