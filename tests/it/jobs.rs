//! Jobs: a queue and a schedule, carried to real processes as Lambda does it, with SQS emulated by moto.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use local::emulator::{Emulator, Queues};
use local::event_sources::EventSources;
use local::gateway::{Gateway, Options};
use local::template::{Function, Queue, QueueEvent, Redrive, Route};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use uuid::Uuid;

use crate::support::{Service, User, connect, emulator, servers};

const QUEUE: &str = "SyncQueue";
const DEAD: &str = "SyncDeadLetterQueue";
const WORKER: &str = "fixture-worker";
const SCHEDULE: &str = "fixture-schedule";
const RING: &str = "fixture-ring";
/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A worker and a schedule on a queue of their own, with a visibility timeout of two seconds and two attempts.
struct Workshop {
    gateway: Gateway,
    functions: Vec<Function>,
    queues: Queues,
    lines: UnboundedReceiver<Value>,
}

impl Workshop {
    async fn new() -> Self {
        Self::with_queues_of(emulator(), BTreeMap::new()).await
    }

    async fn with_queues_of(server: &Emulator, env: BTreeMap<&str, String>) -> Self {
        let queue = |logical_id: &str, redrive: Option<Redrive>, variables: &[&str]| Queue {
            logical_id: logical_id.to_owned(),
            visibility_timeout: Duration::from_secs(2),
            redrive,
            variables: variables.iter().map(|&variable| variable.to_owned()).collect(),
        };
        let redrive = Redrive { to: DEAD.to_owned(), after: 2 };
        let queues = [queue(QUEUE, Some(redrive), &["SYNC_QUEUE_URL"]), queue(DEAD, None, &[])];
        let queues = server.make(&queues).await.unwrap();
        let function = |binary: &str, queues: Vec<QueueEvent>, schedules: Vec<Duration>| Function {
            logical_id: binary.to_owned(),
            binary: binary.to_owned(),
            timeout: Duration::from_secs(60),
            routes: Vec::new(),
            opens_secrets: false,
            asks_who_is_due: false,
            only_reads: false,
            reaches_no_database: false,
            asks_providers: false,
            queues,
            schedules,
        };
        let event = QueueEvent {
            queue: QUEUE.to_owned(),
            batch_size: 10,
            window: Duration::ZERO,
            reports_failures: true,
            concurrency: Some(2),
        };
        let mut functions = vec![
            function(RING, Vec::new(), Vec::new()),
            function(WORKER, vec![event], Vec::new()),
            function(SCHEDULE, Vec::new(), vec![Duration::from_secs(60)]),
        ];
        functions[0].routes = vec![Route { method: "POST".to_owned(), path: "/ring/{id}".to_owned() }];
        let binaries = Path::new(env!("CARGO_BIN_EXE_fixture-worker")).parent().unwrap();
        let (sender, lines) = unbounded_channel();
        let mut options = Options::new(functions.clone(), binaries.to_owned());
        options.concurrency = 1;
        options.env = queues.env().to_vec();
        options.env.extend(env.into_iter().map(|(name, value)| (name.to_owned(), value)));
        options.log = Arc::new(move |_, line| {
            // The test has ended when nobody listens.
            let _ = sender.send(serde_json::from_str(line).unwrap_or_else(|_| json!({ "message": line })));
        });
        let gateway = Gateway::start(options).await.unwrap();
        // So that no process has to start while a message's time runs.
        let answer = gateway.invoke(WORKER, json!({ "Records": [] })).await.unwrap();
        assert_eq!(answer, Ok(json!({ "batchItemFailures": [] })));
        Self { gateway, functions, queues, lines }
    }

    /// Starts to poll: what was sent before comes in one batch.
    fn open(&self) -> EventSources {
        EventSources::start(&self.gateway, &self.functions, Some(&self.queues)).unwrap()
    }

    /// The next line with this message; those before it are gone.
    async fn line(&mut self, message: &str) -> Value {
        self.line_of(&[message]).await
    }

    /// The next line with one of these messages.
    async fn line_of(&mut self, messages: &[&str]) -> Value {
        let search = async {
            loop {
                let line = self.lines.recv().await.unwrap();
                if messages.iter().any(|message| line["message"] == **message) {
                    return line;
                }
            }
        };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("no line of {messages:?}"))
    }

    async fn jobs(&mut self, count: usize) -> Vec<Value> {
        let mut jobs = Vec::new();
        while jobs.len() < count {
            jobs.push(self.line("job").await);
        }
        jobs
    }

    /// Waits until a queue has so many messages: what is done with is deleted after it was logged.
    async fn has(&self, queue: &str, count: usize) {
        let wait = async { while self.queues.count(queue).await.unwrap() != count {} };
        let waited = timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{queue} has {}", self.queues.count(queue).await.unwrap());
    }
}

/// A message about an account whose id begins so.
fn message(deed: u32) -> (Uuid, String) {
    let account = Uuid::from_fields(deed, 0, 0, Uuid::new_v4().as_fields().3);
    let body = json!({"tenantId": Uuid::new_v4(), "userId": Uuid::new_v4(), "accountId": account});
    (account, body.to_string())
}

const FINE: u32 = 0;
const FAILS: u32 = 0xfa11_0000;
const FAILS_ONCE: u32 = 0xfa11_0001;
const HANGS_ONCE: u32 = 0x4a46_0001;
const HAS_MORE_ONCE: u32 = 0x304e_0001;

fn attempts(jobs: &[Value]) -> BTreeMap<String, Vec<(u64, String)>> {
    let mut attempts = BTreeMap::<_, Vec<_>>::new();
    for job in jobs {
        let attempt = (job["attempt"].as_u64().unwrap(), job["outcome"].as_str().unwrap().to_owned());
        attempts.entry(job["messageId"].as_str().unwrap().to_owned()).or_default().push(attempt);
    }
    attempts
}

#[tokio::test]
async fn of_a_batch_with_one_failure_that_one_comes_again() {
    let mut shop = Workshop::new().await;
    let (bad, bad_body) = message(FAILS_ONCE);
    shop.queues.send(QUEUE, &[message(FINE).1, bad_body, message(FINE).1]).await.unwrap();
    let _sources = shop.open();
    let jobs = shop.jobs(4).await;
    let batch: BTreeSet<_> = jobs[..3].iter().map(|job| job["requestId"].as_str().unwrap()).collect();
    assert_eq!(batch.len(), 1, "{jobs:?}");
    assert_eq!(jobs[3]["accountId"], json!(bad));
    assert!(jobs[3]["delayMs"].as_f64().unwrap() >= 2000.0, "{jobs:?}");
    let mut attempts: Vec<_> = attempts(&jobs).into_values().collect();
    attempts.sort();
    let done = |attempt| (attempt, "done".to_owned());
    assert_eq!(attempts, [vec![done(1)], vec![done(1)], vec![(1, "failed".to_owned()), done(2)]]);
    shop.has(QUEUE, 0).await;
    shop.has(DEAD, 0).await;
}

#[tokio::test]
async fn a_batch_waits_to_get_full() {
    let mut shop = Workshop::new().await;
    let event = &mut shop.functions.iter_mut().find(|function| function.binary == WORKER).unwrap().queues[0];
    (event.batch_size, event.window) = (2, PATIENCE);
    let _sources = shop.open();
    for _ in 0..4 {
        shop.queues.send(QUEUE, &[message(FINE).1]).await.unwrap();
    }
    let jobs = shop.jobs(4).await;
    let mut batches = BTreeMap::<_, u32>::new();
    jobs.iter().for_each(|job| *batches.entry(job["requestId"].as_str().unwrap()).or_default() += 1);
    assert_eq!(batches.into_values().collect::<Vec<_>>(), [2, 2]);
}

#[tokio::test]
async fn an_endpoint_rings_and_answers_all_the_same_when_the_queue_is_away() {
    let server = Emulator::start().unwrap();
    let mut shop = Workshop::with_queues_of(&server, servers().await.env()).await;
    let ring = async |shop: &Workshop| {
        let (user, account) = (User::new(), Uuid::new_v4());
        let request = reqwest::Client::new().post(format!("{}/ring/{account}", shop.gateway.url()));
        let answer = request.bearer_auth(user.token()).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        (user, account)
    };
    let mut rung = vec![ring(&shop).await];
    let sources = shop.open();
    // The queue has 250 ms, which a busy machine may not grant. What it was then told may have arrived all the same.
    let job = loop {
        let line = shop.line_of(&["job", "nobody was rung; the schedule finds the work"]).await;
        if line["message"] == "job" {
            break line;
        }
        rung.push(ring(&shop).await);
    };
    let is_it = |(user, account): &(User, Uuid)| {
        let expected = (json!(user.tenant), json!(user.user), json!(account));
        (&job["tenantId"], &job["userId"], &job["accountId"]) == (&expected.0, &expected.1, &expected.2)
    };
    assert!(rung.iter().any(is_it), "{job}");
    drop(sources);
    drop(server);
    ring(&shop).await;
    let line = shop.line("nobody was rung; the schedule finds the work").await;
    assert_eq!(line["level"], "WARN");
    // The limit is 250 ms; the rest is room for a busy machine.
    assert!(shop.line("request").await["durationMs"].as_f64().unwrap() < 3000.0);
}

#[tokio::test]
async fn what_fails_each_time_becomes_a_dead_letter_and_the_others_go_on() {
    let mut shop = Workshop::new().await;
    let bad = [message(FAILS).1, "no account".to_owned()];
    shop.queues.send(QUEUE, &bad).await.unwrap();
    shop.queues.send(QUEUE, &[message(FINE).1]).await.unwrap();
    let _sources = shop.open();
    let jobs = shop.jobs(5).await;
    shop.has(DEAD, 2).await;
    shop.has(QUEUE, 0).await;
    let letters = shop.queues.receive(DEAD, 10, Duration::ZERO).await.unwrap();
    let letters: BTreeSet<_> = letters.iter().map(|letter| letter.body().unwrap()).collect();
    assert_eq!(letters, bad.iter().map(String::as_str).collect());
    let kinds: BTreeSet<_> = jobs.iter().filter_map(|job| job["errorKind"].as_str()).collect();
    assert_eq!(kinds, BTreeSet::from(["Internal error", "Poisoned message"]));
    let counts: BTreeSet<_> = attempts(&jobs).values().map(Vec::len).collect();
    assert_eq!(counts, BTreeSet::from([1, 2]));
    // The queue is none the worse for it.
    let (account, body) = message(FINE);
    shop.queues.send(QUEUE, &[body]).await.unwrap();
    assert_eq!(shop.line("job").await["accountId"], json!(account));
}

#[tokio::test]
async fn a_killed_workers_message_comes_again() {
    let mut shop = Workshop::new().await;
    shop.queues.send(QUEUE, &[message(HANGS_ONCE).1]).await.unwrap();
    let _sources = shop.open();
    shop.line("hanging").await;
    let [pid] = shop.gateway.pids(WORKER).unwrap()[..] else { panic!("one process") };
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    let job = shop.line("job").await;
    assert_eq!((&job["attempt"], &job["outcome"]), (&json!(2), &json!("done")), "{job}");
    shop.has(QUEUE, 0).await;
}

#[tokio::test]
async fn a_worker_that_has_more_rings_again() {
    let mut shop = Workshop::new().await;
    let (account, body) = message(HAS_MORE_ONCE);
    shop.queues.send(QUEUE, &[body]).await.unwrap();
    let _sources = shop.open();
    let jobs = shop.jobs(2).await;
    let outcomes: Vec<_> = jobs.iter().map(|job| job["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["more", "done"]);
    assert!(jobs.iter().all(|job| job["accountId"] == json!(account) && job["attempt"] == 1), "{jobs:?}");
    assert_ne!(jobs[0]["messageId"], jobs[1]["messageId"]);
    shop.has(QUEUE, 0).await;
}

#[tokio::test]
async fn a_tick_invokes_once_and_rings_for_all_that_is_due() {
    let mut shop = Workshop::new().await;
    let sources = shop.open();
    let answer = sources.tick(SCHEDULE).await.unwrap().unwrap();
    assert_eq!(answer, json!({"due": 23, "failed": 0}));
    // The first jobs may be done before the turn is.
    let (mut ticks, mut jobs) = (Vec::new(), Vec::new());
    while ticks.len() + jobs.len() < 24 {
        let line = shop.line_of(&["tick", "job"]).await;
        if line["message"] == "tick" { &mut ticks } else { &mut jobs }.push(line);
    }
    assert_eq!((ticks.len(), &ticks[0]["result"]), (1, &answer));
    assert!(jobs.iter().all(|job| job["outcome"] == "done"), "{jobs:?}");
    shop.has(QUEUE, 0).await;
    // All that was logged is read: there was one turn, and no job twice.
    while let Ok(line) = shop.lines.try_recv() {
        assert!(line["message"] != "tick" && line["message"] != "job", "{line}");
    }
    assert!(sources.tick(WORKER).await.is_err());
}

#[tokio::test]
async fn the_clock_gives_turns_by_itself() {
    let mut shop = Workshop::new().await;
    let schedule = shop.functions.iter_mut().find(|function| function.binary == SCHEDULE).unwrap();
    schedule.schedules = vec![Duration::from_secs(1)];
    let mut sources = shop.open();
    sources.run_schedules();
    let turns = [shop.line("tick").await, shop.line("tick").await];
    assert_ne!(turns[0]["requestId"], turns[1]["requestId"]);
    assert_eq!((&turns[0]["coldStart"], &turns[1]["coldStart"]), (&json!(true), &json!(false)));
}

/// A user's accounts in a service of its own; returns their ids.
async fn accounts(service: &Service, user: &User, count: usize) -> Vec<Uuid> {
    let mut ids = Vec::new();
    for index in 0..count {
        let created = service.api.create(user, json!({"emailAddress": format!("{index}@example.com")})).await;
        ids.push(created["id"].as_str().unwrap().parse().unwrap());
    }
    // Nobody is due before the test says so.
    service.owner.execute("update email_accounts set next_sync_at = null where id = any ($1)", &[&ids]).await.unwrap();
    ids
}

fn doorbell(user: &User, account: Uuid) -> String {
    json!({"tenantId": user.tenant, "userId": user.user, "accountId": account}).to_string()
}

fn is_job(line: &Value) -> bool {
    line["message"] == "job"
}

#[tokio::test]
async fn who_is_due_gets_a_worker_and_nobody_else() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let users = [User::new(), User::new()];
    let mut due = Vec::new();
    for user in &users {
        due.push(accounts(&service, user, 3).await);
    }
    let (of_one, of_other) = (&due[0], &due[1]);
    let nothing = json!({"due": 0, "failed": 0, "lagSeconds": 0, "messagesDue": 0, "messagesLagSeconds": 0, "purgedAccounts": 0, "forgottenAccounts": 0, "purgedRows": 0, "purgedObjects": 0, "releasedMessages": 0, "purgedUploads": 0});
    let mut turn = service.tick().await;
    // A process's first turn counts the accounts.
    assert_eq!(turn.as_object_mut().unwrap().remove("accounts").unwrap()["new"], 6);
    assert_eq!(turn, nothing);
    service.make_due(&[of_one[0], of_other[0]], 90).await;
    service.make_due(&[of_other[1]], 30).await;
    service.make_due(&[of_one[1]], -600).await;
    let sql = "update email_accounts set is_sync_enabled = false, next_sync_at = 1 where id = $1";
    service.owner.execute(sql, &[&of_one[2]]).await.unwrap();
    let answer = service.api.delete(&format!("/api/accounts/{}", of_other[2])).by(&users[1]).send().await;
    assert_eq!(answer.status, 200);
    service.make_due(&[of_other[2]], 90).await;

    let turn = service.tick().await;
    assert_eq!((&turn["due"], &turn["failed"]), (&json!(3), &json!(0)), "{turn}");
    assert!((90..120).contains(&turn["lagSeconds"].as_u64().unwrap()), "{turn}");
    let jobs = service.api.log_lines(3, is_job).await;
    let worked: BTreeSet<_> = jobs.iter().map(|job| job["accountId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(worked, [of_one[0], of_other[0], of_other[1]].map(|id| id.to_string()).into());
    assert!(jobs.iter().all(|job| job["outcome"] == "done" && job["attempt"] == 1), "{jobs:?}");
    let tenants: BTreeSet<_> = jobs.iter().map(|job| job["tenantId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(tenants, users.map(|user| user.tenant.to_string()).into());
    service.has(QUEUE, 0).await;
    let line = service.api.log_line(|line| line["message"] == "tick" && line["result"]["due"] == 3).await;
    assert_eq!(line["result"], turn);
}

#[tokio::test]
async fn an_account_that_is_rung_for_twice_is_done_with_all_the_same() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let user = User::new();
    let [account] = accounts(&service, &user, 1).await[..] else { panic!("one account") };
    service.make_due(&[account], 1).await;
    service.queues.send(QUEUE, &[doorbell(&user, account), doorbell(&user, account)]).await.unwrap();
    assert_eq!(service.tick().await["due"], 1);
    let jobs = service.api.log_lines(3, is_job).await;
    assert!(jobs.iter().all(|job| job["outcome"] == "done"), "{jobs:?}");
    service.has(QUEUE, 0).await;
    service.has(DEAD, 0).await;
}

#[tokio::test]
async fn whoever_could_not_be_rung_for_is_due_again() {
    let nowhere = BTreeMap::from([("SYNC_QUEUE_URL", "http://127.0.0.1:1/123456789012/none".to_owned())]);
    let service = Service::start(Duration::from_secs(60), nowhere).await;
    let ids = accounts(&service, &User::new(), 2).await;
    service.make_due(&ids, 1).await;
    let turn = service.tick().await;
    assert_eq!((&turn["due"], &turn["failed"]), (&json!(2), &json!(2)));
    let sql = "select next_sync_at - epoch_ms() from email_accounts where id = any ($1)";
    for row in service.owner.query(sql, &[&ids]).await.unwrap() {
        let left: i64 = row.get(0);
        assert!((4 * 60_000..=5 * 60_000).contains(&left), "{left}");
    }
}

#[tokio::test]
async fn a_poisoned_message_becomes_a_dead_letter_and_the_others_go_on() {
    // Longer than a job takes whose mail host does not answer.
    let service = Service::start(Duration::from_secs(3), BTreeMap::new()).await;
    let user = User::new();
    let ids = accounts(&service, &user, 3).await;
    service.queues.send(QUEUE, &["no account".to_owned()]).await.unwrap();
    service.make_due(&ids, 1).await;
    assert_eq!(service.tick().await["due"], 3);
    service.has(DEAD, 1).await;
    service.has(QUEUE, 0).await;
    let poisoned = service.api.log_lines(5, |line| is_job(line) && line["outcome"] == "failed").await;
    assert_eq!(poisoned.len(), 5, "{poisoned:?}");
    // One that takes longer than it is hidden comes again, and finds nothing to do.
    for id in ids {
        let is_done = |line: &Value| is_job(line) && line["outcome"] == "done" && line["accountId"] == json!(id);
        service.api.log_lines(1, is_done).await;
    }
    assert!(poisoned.iter().all(|line| line["errorKind"] == "Poisoned message"));
    let letters = service.queues.receive(DEAD, 10, Duration::ZERO).await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.body().unwrap()).collect::<Vec<_>>(), ["no account"]);
}

#[tokio::test]
async fn a_mailbox_that_kills_its_workers_becomes_a_dead_letter_and_the_others_go_on() {
    // It says nothing, so its workers wait. The dead keep their slots of a host for minutes: no other test has this one.
    let host = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let env = BTreeMap::from([("MAIL_ALLOW_PLAINTEXT", "true".to_owned())]);
    let service = Service::start(Duration::from_secs(2), env).await;
    let user = User::new();
    let [other] = accounts(&service, &user, 1).await[..] else { panic!("one account") };
    let settings = json!({"hostname": "127.0.0.2", "port": host.local_addr().unwrap().port(), "encryption": "none"});
    let account: Uuid = service.api.create(&user, settings).await["id"].as_str().unwrap().parse().unwrap();
    let ring = async || {
        let sql = "update email_accounts set rung_at = 1, leased_until = leased_until * 0 where id = $1";
        service.owner.execute(sql, &[&account]).await.unwrap();
        service.queues.send(QUEUE, &[doorbell(&user, account)]).await.unwrap();
    };
    for _ in 0..5 {
        ring().await;
        let (_connection, _) = timeout(PATIENCE, host.accept()).await.expect("a worker comes").unwrap();
        // The other one, where there is one, has come with an old bell, and has ended perhaps.
        for pid in service.api.gateway.pids("sync-account").unwrap() {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        }
    }
    ring().await;
    let dead = async {
        while service.queues.count(DEAD).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, dead).await.expect("a dead letter");
    let failed = service.api.log_line(|line| is_job(line) && line["outcome"] == "failed").await;
    assert!(failed["error"].as_str().unwrap().starts_with("five workers in a row"), "{failed}");
    let shown = service.api.get(&format!("/api/accounts/{account}")).by(&user).send().await.body;
    let error = &shown["lastError"];
    assert_eq!((&error["code"], &error["service"]), (&json!("unavailable"), &json!("imap")), "{shown}");
    service.make_due(&[other], 1).await;
    assert_eq!(service.tick().await["due"], 1);
    let is_done = |line: &Value| is_job(line) && line["outcome"] == "done" && line["accountId"] == json!(other);
    service.api.log_lines(1, is_done).await;
}

#[tokio::test]
async fn an_account_that_we_cannot_synchronise_says_so_and_is_left_alone_for_an_hour() {
    let service = Service::start(Duration::from_secs(1), BTreeMap::new()).await;
    let user = User::new();
    let [account] = accounts(&service, &user, 1).await[..] else { panic!("one account") };
    // A worker gives up what is its message's, and nothing of others.
    let database: String = service.owner.query_one("select current_database()::text", &[]).await.unwrap().get(0);
    let worker = connect(&servers().await.postgres.mail_url(&database)).await;
    for User { tenant, user } in [user.colleague(), User { tenant: Uuid::new_v4(), ..user }, User::new()] {
        let give_up = "select give_up_sync($1, $2, $3, 0, 'not mine')";
        worker.execute(give_up, &[&tenant, &user, &account]).await.unwrap();
    }
    let untouched = "select last_error_code is null and next_sync_at is null from email_accounts where id = $1";
    assert!(service.owner.query_one(untouched, &[&account]).await.unwrap().get::<_, bool>(0));
    // Whatever a worker begins with fails, as after a mistake in a migration.
    let mistake = "drop function begin_sync(uuid, uuid, uuid, bigint);
                   revoke select on schema_migrations from email_service_mail";
    service.owner.batch_execute(mistake).await.unwrap();
    service.make_due(&[account], 1).await;
    assert_eq!(service.tick().await["due"], 1);
    service.has(DEAD, 1).await;
    let jobs = service.api.log_lines(5, is_job).await;
    assert!(jobs.iter().all(|job| job["errorKind"] == "Internal error"), "{jobs:?}");
    let shown = service.api.get(&format!("/api/accounts/{account}")).by(&user).send().await.body;
    let error = &shown["lastError"];
    assert_eq!((&error["code"], &error["service"]), (&json!("unavailable"), &json!("imap")), "{shown}");
    assert!(error["message"].as_str().unwrap().starts_with("The service could not"), "{error}");
    let sql = "select next_sync_at - epoch_ms(), rung_at is null and leased_until is null, lease_token
               from email_accounts where id = $1";
    let row = service.owner.query_one(sql, &[&account]).await.unwrap();
    assert!((3_500_000..=3_600_000).contains(&row.get::<_, i64>(0)), "{row:?}");
    assert!(row.get::<_, bool>(1) && row.get::<_, i64>(2) > 0, "{row:?}");
    assert_eq!(service.tick().await["due"], 0);
}
