//! Sending while all that it stands on is killed at random: the workers' processes, PostgreSQL, the queue, the mail server.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use local::emulator::Emulator;
use local::event_sources::EventSources;
use local::gateway::PayloadVersion;
use serde_json::{Value, json};
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::model_smtp::{At, End, Fault, SmtpModel};
use crate::support::{Api, SCHEDULER_QUEUES, Servers, User, functions};
use crate::sync_model::Dice;

/// How many messages are sent; `KILL_SENDS` asks for another number, `KILL_SEED` for another run of dice.
const SENDS: usize = 60;
const ACCOUNTS: usize = 4;
const WORKER: &str = "deliver-message";
/// What each message ends with.
const TEXT: &str = "At noon.";
/// A lease that nobody has touched for so long is a dead worker's: one that lives has done with a message long before.
const DEATH: Duration = Duration::from_secs(3);
/// How long it may take until all is settled, once nothing is killed any more.
const PATIENCE: Duration = Duration::from_secs(120);

/// What strikes, and how often in a round. Messages are put into the outbox no faster than the first round is played.
const KINDS: [(&str, usize); 7] = [
    ("worker killed", 8),
    ("worker paused beyond its lease", 1),
    ("connection to the mail server cut, or refused", 9),
    ("mail server killed", 2),
    ("PostgreSQL killed", 2),
    ("process of PostgreSQL killed", 1),
    ("queue killed", 1),
];

/// What those who send, who kill and who turn the clock share.
struct Stage {
    api: Api,
    sources: EventSources,
    server: SmtpModel,
    owner_url: String,
    /// Messages of which the clock last saw that they are not settled, and those that it has yet to see.
    waiting: AtomicUsize,
    /// The most of them.
    window: usize,
    /// How often something has struck, or was to.
    strokes: AtomicUsize,
    sends: usize,
    is_calm: AtomicBool,
}

impl Stage {
    /// Puts messages into an outbox until each is known to be there: again and again with the same key.
    async fn put(self: Arc<Self>, user: User, account: Uuid, numbers: Vec<usize>) {
        let http = reqwest::Client::new();
        let url = format!("{}/api/outbox", self.api.url());
        let round: usize = KINDS.iter().map(|(_, count)| count).sum();
        for number in numbers {
            while self.waiting.load(Ordering::SeqCst) >= self.window
                || self.strokes.load(Ordering::SeqCst) < round * number / self.sends
            {
                sleep(Duration::from_millis(20)).await;
            }
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let to = json!([{"address": format!("{number}@example.com")}]);
            let message = json!({"accountId": account, "to": to, "subject": "Lunch?", "text": TEXT});
            loop {
                let request = http.post(&url).bearer_auth(user.token()).header("idempotency-key", number.to_string());
                match request.json(&message).send().await.map(|answer| answer.status().as_u16()) {
                    Ok(202) => break,
                    Ok(500 | 503) | Err(_) => sleep(Duration::from_millis(50)).await,
                    Ok(status) => panic!("message {number} is answered {status}:\n{}", self.api.log()),
                }
            }
        }
    }

    /// Lets the time pass for which messages wait, rings for what is due, and ends the leases of the dead; until all is
    /// settled after the last kill.
    async fn turn_the_clock(self: Arc<Self>) {
        let (mut held, mut calm_since) = (HashMap::new(), None);
        loop {
            sleep(Duration::from_millis(250)).await;
            // Where PostgreSQL is away, the next turn makes up for it.
            let Ok(unsettled) = self.turn(&mut held).await else { continue };
            // The schedule fails with PostgreSQL and the queue.
            let _ = timeout(Duration::from_secs(2), self.sources.tick("schedule-work")).await;
            if self.is_calm.load(Ordering::SeqCst) {
                if unsettled == 0 {
                    return;
                }
                let since = *calm_since.get_or_insert_with(Instant::now);
                assert!(since.elapsed() < PATIENCE, "{unsettled} are not settled:\n{}", self.api.log());
            }
        }
    }

    async fn turn(&self, held: &mut HashMap<(Uuid, i64), Instant>) -> Result<usize, tokio_postgres::Error> {
        let owner = connect(&self.owner_url).await?;
        let rows = owner.query("select id, lease_token from email_outbox where leased_until is not null", &[]).await?;
        let now: Vec<(Uuid, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        held.retain(|lease, _| now.contains(lease));
        let mut dead = Vec::new();
        for lease in now {
            if held.entry(lease).or_insert_with(Instant::now).elapsed() >= DEATH {
                dead.push(lease.0);
            }
        }
        end_leases(&owner, &dead).await?;
        let sql = "update email_outbox set due_at = 1, ring_at = 1
                   where id in (select id from email_outbox where status = 'queued' for update skip locked)";
        owner.execute(sql, &[]).await?;
        let sql = "select count(*) from email_outbox where status in ('queued', 'sending') or leased_until is not null";
        let count = usize::try_from(owner.query_one(sql, &[]).await?.get::<_, i64>(0)).unwrap();
        self.waiting.store(count, Ordering::SeqCst);
        Ok(count)
    }

    /// One of the workers' processes, as soon as there is one.
    async fn worker(&self, dice: &mut Dice) -> Option<String> {
        for _ in 0..100 {
            let pids = self.api.gateway.pids(WORKER).unwrap();
            if !pids.is_empty() {
                return Some(pids[dice.roll(pids.len())].to_string());
            }
            sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// Whatever somebody holds is not his any more.
    async fn end_all_leases(&self) -> Result<u64, tokio_postgres::Error> {
        let owner = connect(&self.owner_url).await?;
        let rows = owner.query("select id from email_outbox where leased_until is not null", &[]).await?;
        end_leases(&owner, &rows.iter().map(|row| row.get(0)).collect::<Vec<_>>()).await
    }

    /// Of PostgreSQL's processes one that serves a worker.
    async fn backend(&self) -> Result<Option<String>, tokio_postgres::Error> {
        let sql = "select pid::text from pg_stat_activity where usename = 'email_service_mail' limit 1";
        Ok(connect(&self.owner_url).await?.query_opt(sql, &[]).await?.map(|row| row.get(0)))
    }
}

/// PostgreSQL may still be recovering.
async fn patiently<T>(attempt: impl AsyncFn() -> Result<T, tokio_postgres::Error>) -> T {
    for _ in 0..300 {
        match attempt().await {
            Ok(done) => return done,
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
    attempt().await.unwrap()
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Ends with the client; its errors reach us as those of the statement.
    tokio::spawn(connection);
    Ok(client)
}

async fn end_leases(owner: &Client, ids: &[Uuid]) -> Result<u64, tokio_postgres::Error> {
    // Who waited for a row with others in his hands would wait in a circle.
    let sql = "update email_outbox set leased_until = 1, due_at = 1, ring_at = 1
               where id in (select id from email_outbox where id = any ($1) for update skip locked)";
    owner.execute(sql, &[&ids]).await
}

/// One that has ended by itself meanwhile is left alone.
fn signal(pid: &str, signal: &str) -> bool {
    std::process::Command::new("kill").args(["-s", signal, pid]).status().unwrap().success()
}

/// Processes die at any moment, and connections with them. Each message is at the server at most once; what is said to be
/// sent is there, and what is not there is not said to be.
///
/// And nobody says without a reason that he does not know. Of what is uncertain the server has seen the last dot; or it has
/// seen all but the dot, for a worker that dies just before it and one that dies just after it are the same to whoever comes
/// later; or it has died itself while it was told, and cannot say. Never has it not even been told the message. Some were
/// told to the end, so it does not do to die each time before the dot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_a_message_is_sent_at_most_once_and_what_is_said_of_it_is_true() {
    let number = |name: &str, usual: usize| std::env::var(name).ok().map_or(usual, |number| number.parse().unwrap());
    let sends = number("KILL_SENDS", SENDS);
    let mut dice = Dice::new(number("KILL_SEED", 0x5EED) as u64);
    let mut servers = Servers::start().await;
    let mut emulator = block_in_place(Emulator::start).unwrap();
    let mut queues = local::template::queues(&local::workspace_root().join("template.yaml")).unwrap();
    queues.iter_mut().for_each(|queue| queue.visibility_timeout = Duration::from_secs(1));
    let (queues, bucket) = (emulator.make(&queues).await.unwrap(), emulator.make_bucket().await.unwrap());
    let mut env = servers.env();
    SCHEDULER_QUEUES.iter().for_each(|name| drop(env.remove(name)));
    let both = queues.env().iter().chain(bucket.env());
    env.extend(both.map(|(name, value)| (&*name.clone().leak(), value.clone())));
    for (name, value) in [
        ("MAIL_PRIVATE_NETWORKS", "127.0.0.0/8"),
        ("MAIL_PORTS", "*"),
        ("MAIL_ALLOW_PLAINTEXT", "true"),
        // Who is killed keeps his slot for minutes.
        ("MAIL_HOST_CONNECTIONS", "1000000"),
        ("SEND_PER_HOUR", "0"),
        ("USER_SEND_PER_HOUR", "0"),
    ] {
        env.insert(name, value.to_owned());
    }
    let api = Api::start_as(env, PayloadVersion::V2, 3).await;
    let sources = EventSources::start(&api.gateway, &functions(), Some(&queues)).unwrap();
    let stage = Arc::new(Stage {
        api,
        sources,
        server: SmtpModel::start(&["PIPELINING", "SIZE 26214400", "8BITMIME", "ENHANCEDSTATUSCODES"]).await,
        owner_url: servers.postgres.owner_url("app"),
        waiting: AtomicUsize::new(0),
        window: (sends / 20).clamp(8, 100),
        strokes: AtomicUsize::new(0),
        sends,
        is_calm: AtomicBool::new(false),
    });
    // The first two that come to it, whatever the dice say.
    stage.server.fail([(At::Dot, Fault::CutAfter), (At::Dot, Fault::Cut)]);
    let started = Instant::now();
    let mut senders = Vec::new();
    for place in 0..ACCOUNTS {
        let user = User::new();
        // It keeps no copies.
        let settings = json!({
            "protocol": "pop3", "isSyncEnabled": false, "hostname": "127.0.0.1", "port": 1, "encryption": "none",
            "smtpHostname": "127.0.0.1", "smtpPort": stage.server.port, "smtpEncryption": "none",
        });
        let account: Uuid = stage.api.create(&user, settings).await["id"].as_str().unwrap().parse().unwrap();
        let numbers = (0..sends).filter(|number| number % ACCOUNTS == place).collect();
        senders.push(tokio::spawn(stage.clone().put(user, account, numbers)));
    }
    let clock = tokio::spawn(stage.clone().turn_the_clock());

    let mut struck = BTreeMap::<&str, usize>::new();
    let mut deck: Vec<&str> = Vec::new();
    let faults = [Fault::Cut, Fault::CutAfter, Fault::Say("451 4.3.0 Not now"), Fault::Say("421 4.3.0 Bye")];
    loop {
        if deck.is_empty() {
            // A round is played to its end.
            if !struck.is_empty() && senders.iter().all(|sender| sender.is_finished()) {
                break;
            }
            deck = KINDS.iter().flat_map(|(kind, count)| std::iter::repeat_n(*kind, *count)).collect();
        }
        sleep(Duration::from_millis(20 + dice.roll(200) as u64)).await;
        let absence = Duration::from_millis(dice.roll(400) as u64);
        let kind = deck.swap_remove(dice.roll(deck.len()));
        let is_done = match kind {
            "worker killed" => stage.worker(&mut dice).await.is_some_and(|pid| signal(&pid, "KILL")),
            "worker paused beyond its lease" => match stage.worker(&mut dice).await {
                Some(pid) if signal(&pid, "STOP") => {
                    patiently(|| stage.end_all_leases()).await;
                    // Another takes over.
                    sleep(Duration::from_millis(300) + absence).await;
                    signal(&pid, "CONT")
                }
                _ => false,
            },
            "mail server killed" => {
                stage.server.kill().await;
                sleep(absence).await;
                stage.server.start_again().await;
                true
            }
            "PostgreSQL killed" => {
                block_in_place(|| servers.postgres.kill()).unwrap();
                sleep(absence).await;
                block_in_place(|| servers.postgres.start_again()).unwrap();
                true
            }
            // It takes all the others with it, and recovers.
            "process of PostgreSQL killed" => {
                let mut pid = None;
                for _ in 0..100 {
                    pid = patiently(|| stage.backend()).await;
                    if pid.is_some() {
                        break;
                    }
                    sleep(Duration::from_millis(20)).await;
                }
                pid.is_some_and(|pid| signal(&pid, "KILL"))
            }
            "queue killed" => {
                block_in_place(|| emulator.kill()).unwrap();
                sleep(absence).await;
                block_in_place(|| emulator.start_again()).unwrap();
                emulator.make_again(&queues).await.unwrap();
                true
            }
            _ => {
                let fault = (At::ALL[dice.roll(At::ALL.len())], faults[dice.roll(faults.len())].clone());
                stage.server.fail([fault]);
                true
            }
        };
        *struck.entry(kind).or_default() += usize::from(is_done);
        stage.strokes.fetch_add(1, Ordering::SeqCst);
    }
    join_all(senders).await.into_iter().for_each(Result::unwrap);
    stage.server.world.lock().unwrap().faults.clear();
    stage.is_calm.store(true, Ordering::SeqCst);
    clock.await.unwrap();

    let sql = "select status, message_id, recipients, dot_at is not null from email_outbox";
    let rows = patiently(async || connect(&stage.owner_url).await?.query(sql, &[]).await).await;
    let world = stage.server.world.lock().unwrap();
    let mut taken = HashMap::<String, Vec<String>>::new();
    for message in &world.taken {
        taken.entry(message.recipients.concat()).or_default().push(message.message_id());
    }
    let (mut statuses, mut unknown) = (BTreeMap::<String, usize>::new(), BTreeMap::<&str, usize>::new());
    for row in &rows {
        let (status, message_id): (String, String) = (row.get(0), row.get(1));
        let recipients: Value = serde_json::from_str(row.get(2)).unwrap();
        let recipient = recipients[0]["address"].as_str().unwrap();
        let at_the_server = taken.remove(recipient).unwrap_or_default();
        assert!(at_the_server.len() <= 1, "{recipient} was sent {at_the_server:?}");
        assert!(at_the_server.iter().all(|id| *id == message_id), "{recipient} got another one");
        match status.as_str() {
            "sent" => assert_eq!(at_the_server.len(), 1, "{recipient} is said to be sent"),
            "uncertain" => {
                assert!(row.get::<_, bool>(3), "{recipient}: no dot was about to go out");
                let heard = world.heard.iter().filter(|heard| heard.recipients == [recipient]);
                let ends = heard.filter(|heard| match heard.end {
                    End::ClientLeft => heard.message.ends_with(format!("{TEXT}\r\n").as_bytes()),
                    End::Dot | End::ServerDied => true,
                });
                let ends: Vec<End> = ends.map(|heard| heard.end).collect();
                let kind = match at_the_server.is_empty() {
                    false => "taken",
                    true if ends.contains(&End::Dot) => "the dot had come",
                    true if ends.contains(&End::ClientLeft) => "all but the dot had come",
                    true if ends.contains(&End::ServerDied) => "the server died meanwhile",
                    true => panic!("{recipient}: the server was never told all of it"),
                };
                *unknown.entry(kind).or_default() += 1;
            }
            status => panic!("{recipient} is {status}"),
        }
        *statuses.entry(status).or_default() += 1;
    }
    println!("{sends} messages in {:?}: {statuses:?}, of the uncertain {unknown:?}; {struck:?}", started.elapsed());
    assert!(taken.is_empty(), "nobody asked for {taken:?}");
    assert_eq!(rows.len(), sends, "each is there once, however often it was put there");
    assert!(statuses["sent"] > sends / 2, "{statuses:?}");
    assert!(unknown["taken"] > 0 && unknown["the dot had come"] > 0, "{unknown:?}");
    assert!(KINDS.iter().all(|(kind, _)| struck[kind] > 0), "{struck:?}");
}
