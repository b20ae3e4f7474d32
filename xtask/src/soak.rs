//! `cargo soak`: many tenants at work for minutes while all that the service stands on fails under it: PostgreSQL, Redis,
//! queues, object store, mail server, provider, functions and workers. Users manage accounts (`client`), or have a mailbox on
//! a real server, read and send (`user`) while another client works in it (`mailbox`). Each answer is checked against what
//! is known; at the end each mailbox against its server, what was sent, memory and connections (`end`).

mod caller;
mod client;
mod end;
mod faults;
mod imap;
mod mailbox;
mod stage;
mod user;
mod watch;

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use local::{
    build::build_functions,
    event_sources::EventSources,
    gateway::{self, Gateway},
    services::secret,
    template, workspace_root,
};
use shared::work::JOBS_AT_ONCE;
use tokio::{task::JoinSet, time::sleep};

use crate::functions::SealingKeys;
use caller::PASSWORD;
use client::Client;
use mailbox::SECRET;
use stage::Servers;
use user::User;
use watch::{Watch, connections};

const DATABASE: &str = "app";
/// In `target`.
const LOG: &str = "soak.log";
/// In a log line of a function that has nothing to complain of.
const CONTENT: &str = "\"level\":\"INFO\"";
const TENANTS: usize = 6;
/// Mailboxes whose users have signed in with the provider; the others have passwords.
const BY_TOKEN: usize = 2;
/// How often the schedule has its turn: in AWS once a minute.
const TURN: Duration = Duration::from_secs(10);
/// How long after the last request a connection to the mail server may still be there.
const REST: Duration = Duration::from_secs(5);
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
    /// What was done past the service.
    deeds: Mutex<BTreeMap<&'static str, u64>>,
    differences: Mutex<Vec<String>>,
    /// What the functions complain of, and the differences among it.
    log: Mutex<File>,
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

    fn did(&self, what: &'static str) {
        *lock(&self.deeds).entry(what).or_default() += 1;
    }

    /// Notes that something was not as the model or the contract has it.
    fn differs(&self, what: String) {
        eprintln!("DIFFERENCE: {what}");
        self.log(&format!("DIFFERENCE: {what}"));
        lock(&self.differences).push(what);
    }

    fn log(&self, line: &str) {
        // It is for whoever looks for a difference's reason; the run does not depend on it.
        let _ = writeln!(lock(&self.log), "{line}");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let path = workspace_root().join("template.yaml");
    let mut functions = template::routes(&path)?;
    // Here nothing is without a way to the issuer, so nobody has to fetch its keys for others.
    functions.retain(|function| function.has_events() && function.binary != "refresh-keys");
    let binaries = build_functions(false, functions.iter().map(|function| function.binary.as_str()))?;
    let mut servers = Servers::start(template::queues(&path)?).await?;

    let run = Arc::new(Run {
        until: Instant::now() + Duration::from_secs_f64(options.minutes * 60.0),
        excused_until: Mutex::new(Some(Instant::now() + AFTERMATH)),
        answers: Mutex::default(),
        deeds: Mutex::default(),
        differences: Mutex::default(),
        log: Mutex::new(File::create(workspace_root().join("target").join(LOG))?),
    });
    let key = secret();
    let mut gateway_options = gateway::Options::new(functions.clone(), binaries);
    let reader = run.clone();
    gateway_options.log = Arc::new(move |function, line| {
        if !line.contains(CONTENT) {
            reader.log(&format!("{function} {line}"));
        }
        if [PASSWORD, SECRET, "eyJ"].iter().any(|secret| line.contains(secret)) {
            reader.differs(format!("{function} logs a password, a token or what a message says: {line}"));
        }
    });
    gateway_options.env = servers.env().await;
    for (name, value) in
        [("JWT_SECRET_KEY", key.as_str()), ("RATE_LIMIT_PER_MINUTE", "1000000"), ("ACCOUNTS_PER_USER", "1000000")]
    {
        gateway_options.env.push((name.to_owned(), value.to_owned()));
    }
    SealingKeys::new()?.hand_to(&mut gateway_options, servers.postgres.role_urls(DATABASE));
    let gateway = Gateway::start(gateway_options).await?;
    let sources = Arc::new(EventSources::start(&gateway, &functions, Some(&servers.queues))?);
    let address = gateway.url().trim_start_matches("http://").parse()?;

    let (mut clients, mut mailboxes) = (JoinSet::new(), Vec::new());
    for [first, second, third] in stage::callers(TENANTS, address, &key, &run)? {
        clients.spawn(Client::new(first).work());
        for caller in [second, third] {
            let (name, by_token) = (format!("m{}", &secret()[..8]), mailboxes.len() < BY_TOKEN);
            mailboxes.push(Arc::new(servers.mailbox(caller, &name, by_token).await?));
        }
    }
    let (mut users, mut others) = (JoinSet::new(), JoinSet::new());
    for mailbox in &mailboxes {
        let known = mailboxes.iter().filter(|other| !Arc::ptr_eq(other, mailbox));
        let known = known.map(|other| (other.address.clone(), other.marker.clone())).collect();
        users.spawn(User::new(mailbox.clone(), known).work());
        let (mailbox, port) = (mailbox.clone(), servers.ports.imap);
        others.spawn(async move { mailbox.work_as_another(port).await });
    }
    let (posting, mail) = (run.clone(), servers.mail.clone());
    others.spawn(async move { stage::post(&posting, &mail, &mailboxes).await });
    let (turning, clock) = (run.clone(), sources.clone());
    others.spawn(async move {
        while !turning.is_over() {
            sleep(TURN).await;
            // Its failure is in its own log, and the next turn makes up for it.
            let _ = clock.tick("schedule-work").await;
        }
    });
    let names: Vec<&str> = functions.iter().map(|function| function.binary.as_str()).collect();
    let local::mail_server::Ports { imap, imaps, pop3, pop3s, submission, submissions } = servers.ports;
    let mail_ports = vec![imap, imaps, pop3, pop3s, submission, submissions];
    let ports = vec![
        ("PostgreSQL", vec![servers.postgres.port()]),
        ("Redis", vec![servers.redis.port()]),
        ("mail server", mail_ports.clone()),
    ];
    let mut watch = Watch::default();
    let faults = faults::strike(&run, &mut servers, &gateway);
    let (faults, ()) = tokio::join!(faults, watch.watch(&run, &gateway, &names, &ports));
    let faults = faults?;

    let (mut kept, mut done) = (0, Vec::new());
    while let Some(client) = clients.join_next().await {
        kept += client??.check_at_the_end().await?;
    }
    while let Some(user) = users.join_next().await {
        done.push(user??);
    }
    while let Some(other) = others.join_next().await {
        other?;
    }
    let messages = end::settle(&run, &servers, &sources, &mut done).await?;
    let statuses = end::check_sent(&run, &servers, &done).await?;
    let objects = end::check_tenants(&run, &servers, &done).await?;
    let count = |names: &[&str]| names.iter().filter_map(|name| gateway.pids(name).ok()).flatten().count();
    let processes = [count(&names), count(&faults::WORKERS)];
    let connections = check_connections(&run, &servers, kept + done.len(), processes, &mail_ports).await?;
    watch.check(&run);

    println!("{:.1} minutes, {TENANTS} tenants, {} mailboxes", options.minutes, done.len());
    for ((kind, status), count) in &*lock(&run.answers) {
        println!("{kind:>18} {status} {count:>8}");
    }
    println!("answers: {}", lock(&run.answers).values().sum::<u64>());
    println!("past the service: {:?}", lock(&run.deeds));
    println!("faults: {}, {faults:?}", faults.values().sum::<u32>());
    println!("in the mailboxes: {messages} messages, each as on its server; {objects} objects looked at");
    println!("outboxes: {statuses:?}");
    println!("memory: {watch}");
    println!("connections at the end: {connections}");
    let differences = lock(&run.differences).len();
    println!("differences: {differences}");
    gateway.shutdown().await;
    ensure!(differences == 0, "the service and the model differ, see above");
    Ok(())
}

/// Nothing is half there, every account is somebody's, no process holds more connections than it works at things at
/// once, and none waits for a mailbox.
async fn check_connections(
    run: &Run,
    servers: &Servers,
    kept: usize,
    [processes, workers]: [usize; 2],
    mail_ports: &[u16],
) -> Result<String> {
    let owner = end::connect(servers).await?;
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
        run.differs(format!("the users know {kept} accounts, the database has {enabled}"));
    }
    let held = count("select count(*) from pg_stat_activity where usename like 'email_service_%'").await?;
    if held > processes + workers * (JOBS_AT_ONCE - 1) {
        run.differs(format!("{processes} processes, {workers} of them workers, hold {held} connections to PostgreSQL"));
    }
    sleep(REST).await;
    let (redis, mail) = (connections(&[servers.redis.port()]), connections(mail_ports));
    if mail > 0 {
        run.differs(format!("{mail} connections to the mail server are left"));
    }
    Ok(format!(
        "{held} to PostgreSQL, {redis} to Redis and {mail} to the mail server, of {processes} processes, {workers} of them workers"
    ))
}
