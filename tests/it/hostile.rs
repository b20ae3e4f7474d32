//! Mail servers that do what they must not: all that `behaviours.rs` lists, each against the real functions. What is promised of an
//! entry comes true, in time, in little memory, and beside it another account goes on; a server that is honest again finds the
//! mailbox as it was; and no password is in an answer or a log, whatever a server repeats.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::{StreamExt, stream};
use local::gateway::PayloadVersion;
use mail::testing::{Authority, Script, ScriptedServer};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::behaviours::{Behaviour, Certificate, Does, MESSAGES, PASSWORD, Promise, table};
use crate::model_imap::{Extensions, Lie, ModelServer, World};
use crate::model_pop3::{Mailbox, ModelPop3};
use crate::model_smtp::{At, Fault, SmtpModel};
use crate::support::{Api, User, account, lasting, merged, now_seconds, owner, servers};
use crate::sync_model::pass_time;

/// A try is over in 8.5 s, and its caller is promised an answer in 10.
const TRY_LIMIT: Duration = Duration::from_secs(14);
/// One answer has 15 s, in which others have the processor as well.
const JOB_LIMIT: Duration = Duration::from_secs(30);
/// Of a function that tries logins.
const TRY_MEMORY: u64 = 48 * 1024;
/// Of a worker, which has a hostile account and another one in each batch.
const JOB_MEMORY: u64 = 96 * 1024;
/// Processes of a function; so many entries are gone through at once.
const PROCESSES: usize = 6;

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);
/// Where the functions find its certificate. It stays there until the next run.
static BUNDLE: LazyLock<&str> = LazyLock::new(|| {
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/hostile.pem");
    std::fs::write(path, AUTHORITY.pem()).unwrap();
    path
});

/// Functions that reach servers of this machine and trust [`AUTHORITY`].
async fn api() -> Api {
    let mut env = servers().await.env();
    for (name, value) in [
        ("MAIL_PRIVATE_NETWORKS", "127.0.0.0/8,::1/128"),
        ("MAIL_PORTS", "*"),
        ("MAIL_ALLOW_PLAINTEXT", "true"),
        ("MAIL_HOST_CONNECTIONS", "1000000"),
        ("SEND_PER_HOUR", "0"),
        ("USER_SEND_PER_HOUR", "0"),
    ] {
        env.insert(name, value.to_owned());
    }
    env.insert("SSL_CERT_FILE", BUNDLE.to_string());
    Api::start_as(env, PayloadVersion::V2, PROCESSES).await
}

/// The most that a process of a function has had, in KiB.
fn peak(api: &Api, function: &str) -> u64 {
    let peaks = api.gateway.pids(function).unwrap().into_iter().map(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
        peak.parse::<u64>().unwrap()
    });
    peaks.max().unwrap()
}

/// Nothing that a server was told is anywhere.
fn check_secrecy(text: &str) {
    let encoded = BASE64_STANDARD.encode(format!("\0jane\0{PASSWORD}"));
    for secret in [PASSWORD, &encoded, &encoded[..20]] {
        assert!(!text.to_lowercase().contains(&secret.to_lowercase()), "the password was told: {text}");
    }
}

/// For whoever wants to see figures.
fn summary(what: &str, times: &[(&str, Duration)], peak: u64) {
    let slowest = times.iter().max_by_key(|(_, time)| *time).unwrap();
    println!("{what}: {} behaviours, the slowest {slowest:?}, at most {peak} KiB", times.len());
}

#[test]
fn the_table_names_each_behaviour_once_and_where_it_is_from() {
    let table = table();
    assert!(table.len() >= 60, "{}", table.len());
    let names: BTreeSet<_> = table.iter().map(|behaviour| behaviour.name).collect();
    assert_eq!(names.len(), table.len());
    for Behaviour { name, reference, .. } in &table {
        let is_issue = reference
            .split_once('#')
            .is_some_and(|(repository, number)| repository.split('/').count() == 2 && number.parse::<u32>().is_ok());
        let is_known = ["RFC ", "CVE-", "https://"].iter().any(|start| reference.starts_with(start));
        assert!(is_issue || is_known, "{name}: {reference}");
    }
}

/// A server that lets everybody in.
fn honest() -> Script {
    let script = Script::new().say("* OK [CAPABILITY IMAP4rev1] ready\r\n").hear_any().say("a1 OK in\r\n");
    script.hear_any().say("* BYE bye\r\na2 OK done\r\n")
}

async fn start(script: Script, certificate: Certificate) -> ScriptedServer {
    let tls = match certificate {
        Certificate::Good => AUTHORITY.server("localhost"),
        Certificate::Expired => AUTHORITY.expired_server("localhost"),
        Certificate::OtherName => AUTHORITY.server("mail.example.com"),
        Certificate::OtherAuthority => Authority::new().server("localhost"),
    };
    lasting(async { ScriptedServer::start(script, tls).await }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_server_does_while_somebody_signs_in_a_try_ends_as_promised() {
    let api = api().await;
    let incoming = start(honest(), Certificate::Good).await;
    let fine = incoming.address().port();
    let (api, tries) = (&api, table().into_iter().filter(|entry| matches!(entry.does, Does::SignIn { .. })));
    let each = tries.map(|Behaviour { name, does, .. }| async move {
        let Does::SignIn { protocol, encryption, certificate, script, promise } = does else { unreachable!() };
        let server = start(script, certificate).await;
        let port = server.address().port();
        let login = json!({"hostname": "localhost", "username": "jane", "password": PASSWORD});
        let settings = match protocol {
            "smtp" => json!({
                "port": fine, "encryption": "none", "smtpHostname": "localhost", "smtpPort": port, "smtpEncryption": encryption,
            }),
            protocol => json!({"protocol": protocol, "port": port, "encryption": encryption}),
        };
        let body = account(merged(login, settings));
        let started = Instant::now();
        let answer = api.post("/api/accounts/test", body).by(&User::new()).send().await;
        let took = started.elapsed();
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        let tried = &answer.body[if protocol == "smtp" { "smtp" } else { "incoming" }];
        let expected = match promise {
            Promise::Fine => Value::Null,
            Promise::Code(code) => json!(code),
        };
        assert_eq!((&tried["code"], &tried["success"]), (&expected, &json!(expected.is_null())), "{name}: {answer:?}");
        assert!(protocol != "smtp" || answer.body["incoming"]["success"] == true, "{name}: {answer:?}");
        assert!(took < TRY_LIMIT, "{name}: {took:?}");
        check_secrecy(&answer.body.to_string());
        assert_eq!(server.connections(), 1, "{name}: once, and nowhere else");
        if encryption != "none" {
            let heard = server.heard().join("\n");
            check_secrecy(&heard);
            assert!(!heard.contains("LOGIN") && !heard.contains("AUTH") && !heard.contains("USER"), "{name}: {heard}");
        }
        (name, took)
    });
    let times: Vec<_> = stream::iter(each).buffer_unordered(PROCESSES).collect().await;
    let peak = peak(api, "test-settings");
    summary("signing in", &times, peak);
    assert!(peak < TRY_MEMORY, "{peak} KiB");
    check_secrecy(&api.log());
}

/// An account with its user.
struct Customer {
    user: User,
    id: Uuid,
    path: String,
}

impl Customer {
    async fn new(api: &Api, settings: Value) -> Self {
        let user = User::new();
        let basics = json!({"hostname": "127.0.0.1", "encryption": "none", "username": "jane", "password": PASSWORD});
        let created = api.create(&user, merged(basics, settings)).await;
        let id = created["id"].as_str().unwrap();
        Self { user, id: id.parse().unwrap(), path: format!("/api/accounts/{id}") }
    }

    /// What a queue has for its worker.
    fn record(&self) -> Value {
        let body = json!({"tenantId": self.user.tenant, "userId": self.user.user, "accountId": self.id});
        json!({
            "messageId": self.id, "body": body.to_string(),
            "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": (now_seconds() * 1000).to_string()},
        })
    }

    /// Its state, the code of its last error, and whether it was ever synchronised whole.
    async fn state(&self, api: &Api) -> (String, Value) {
        let shown = api.get(&self.path).by(&self.user).send().await;
        check_secrecy(&shown.body.to_string());
        (shown.body["state"].as_str().unwrap().to_owned(), shown.body["lastError"]["code"].clone())
    }

    /// The ids of its messages, by their UIDs.
    async fn messages(&self, owner: &Client) -> BTreeMap<i64, Uuid> {
        let sql = "select uid, id from email_messages where account_id = $1 and uid is not null";
        owner.query(sql, &[&self.id]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// How many of these messages are still known, wherever they are.
    async fn count_known(&self, owner: &Client, ids: &BTreeMap<i64, Uuid>) -> usize {
        let ids: Vec<Uuid> = ids.values().copied().collect();
        let sql = "select count(*) from email_messages where account_id = $1 and id = any ($2)";
        usize::try_from(owner.query_one(sql, &[&self.id, &ids]).await.unwrap().get::<_, i64>(0)).unwrap()
    }
}

/// Gives accounts a turn, in one batch; none of it is our failure.
async fn work(api: &Api, function: &str, customers: &[&Customer], name: &str) -> Duration {
    let records: Vec<Value> = customers.iter().map(|customer| customer.record()).collect();
    let started = Instant::now();
    let answer = api.gateway.invoke(function, json!({ "Records": records })).await.unwrap();
    assert_eq!(answer, Ok(json!({"batchItemFailures": []})), "{name}:\n{}", api.log());
    started.elapsed()
}

async fn synchronise(api: &Api, owner: &Client, customers: &[&Customer], name: &str) -> Duration {
    let ids: Vec<Uuid> = customers.iter().map(|customer| customer.id).collect();
    let sql = "update email_accounts set rung_at = 1, leased_until = least(leased_until, 1), deaths = 0
               where id = any ($1)";
    owner.execute(sql, &[&ids]).await.unwrap();
    work(api, "sync-account", customers, name).await
}

/// A mailbox whose server lies, and is honest before and after.
enum Mailboxes {
    Imap(ModelServer),
    Pop3(ModelPop3),
}

impl Mailboxes {
    async fn imap(extensions: Extensions) -> Self {
        let mut world = World::new(extensions);
        (0..MESSAGES).for_each(|_| world.append("INBOX", 0));
        Self::Imap(lasting(ModelServer::start(world)).await)
    }

    async fn pop3() -> Self {
        let mailbox = Mailbox { messages: (1..=MESSAGES).collect(), ..Mailbox::default() };
        Self::Pop3(lasting(ModelPop3::start(mailbox)).await)
    }

    fn settings(&self) -> Value {
        match self {
            Self::Imap(server) => json!({"protocol": "imap", "port": server.port()}),
            Self::Pop3(server) => json!({"protocol": "pop3", "port": server.port}),
        }
    }

    /// Something arrives, so that there is something to ask for.
    fn deliver(&self) {
        match self {
            Self::Imap(server) => server.world().append("INBOX", 0),
            Self::Pop3(server) => server.mailbox.lock().unwrap().messages.push(MESSAGES + 1),
        }
    }

    fn lie(&self, lies: Vec<Lie>) {
        match self {
            Self::Imap(server) => server.world().lies = lies,
            Self::Pop3(server) => server.mailbox.lock().unwrap().lies = lies,
        }
    }
}

/// One mailbox: honest, lying, honest.
async fn go_through(api: &Api, neighbours: &ModelServer, name: &'static str, does: Does) -> (&'static str, Duration) {
    let (mailbox, lies, promise) = match does {
        Does::Imap { extensions, lies, promise } => (Mailboxes::imap(extensions).await, lies, promise),
        Does::Pop3 { lies, promise } => (Mailboxes::pop3().await, lies, promise),
        _ => unreachable!(),
    };
    let owner = owner().await;
    let customer = Customer::new(api, mailbox.settings()).await;
    synchronise(api, &owner, &[&customer], name).await;
    assert_eq!(customer.state(api).await, ("connected".to_owned(), Value::Null), "{name}");
    let before = customer.messages(&owner).await;
    assert_eq!(before.len(), MESSAGES as usize, "{name}");

    let neighbour = Customer::new(api, json!({"port": neighbours.port()})).await;
    mailbox.deliver();
    mailbox.lie(lies);
    let took = synchronise(api, &owner, &[&customer, &neighbour], name).await;
    let expected = match promise {
        Promise::Fine => ("connected".to_owned(), Value::Null),
        Promise::Code(code) => ("connectError".to_owned(), json!(code)),
    };
    assert_eq!(customer.state(api).await, expected, "{name}");
    assert!(took < JOB_LIMIT, "{name}: {took:?}");
    assert_eq!(customer.count_known(&owner, &before).await, before.len(), "{name}: messages are gone");
    assert_eq!(neighbour.state(api).await, ("connected".to_owned(), Value::Null), "{name}: beside it");
    assert_eq!(neighbour.messages(&owner).await.len(), 1, "{name}: beside it");

    mailbox.lie(Vec::new());
    for _ in 0..4 {
        pass_time(&owner, shared::account::AccountId(customer.id)).await;
        synchronise(api, &owner, &[&customer], name).await;
    }
    assert_eq!(customer.state(api).await, ("connected".to_owned(), Value::Null), "{name}: after it");
    let after = customer.messages(&owner).await;
    assert_eq!(after.len(), MESSAGES as usize + 1, "{name}: after it");
    assert!(before.values().all(|id| after.values().any(|known| known == id)), "{name}: {before:?} {after:?}");
    (name, took)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_server_does_to_a_mailbox_nothing_is_lost_and_others_go_on() {
    let api = api().await;
    let mut world = World::new(Extensions::default());
    world.append("INBOX", 0);
    let neighbours = lasting(ModelServer::start(world)).await;
    let (api, neighbours) = (&api, &neighbours);
    let entries = table().into_iter().filter(|entry| matches!(entry.does, Does::Imap { .. } | Does::Pop3 { .. }));
    let each = entries.map(|Behaviour { name, does, .. }| go_through(api, neighbours, name, does));
    let times: Vec<_> = stream::iter(each).buffer_unordered(PROCESSES).collect().await;
    let peak = peak(api, "sync-account");
    summary("synchronising", &times, peak);
    assert!(peak < JOB_MEMORY, "{peak} KiB");
    check_secrecy(&api.log());
}

/// One message: handed over to a server that misbehaves, and again to the same when it does not.
async fn submit(
    api: &Api,
    name: &'static str,
    (extensions, faults): (Vec<&'static str>, Vec<(At, Fault)>),
    (status, later): (&str, &str),
) -> (&'static str, Duration) {
    let server = SmtpModel::start(&extensions).await;
    let smtp = json!({
        "protocol": "pop3", "port": 1, "isSyncEnabled": false, "smtpHostname": "127.0.0.1", "smtpPort": server.port,
        "smtpEncryption": "none",
    });
    let customer = Customer::new(api, smtp).await;
    let owner = owner().await;
    let message = json!({"accountId": customer.id, "to": [{"address": "john@example.com"}], "subject": "Lunch?", "text": "At noon."});
    let put = api.post("/api/outbox", message).by(&customer.user).send().await;
    assert_eq!(put.status, 202, "{put:?}");
    let path = format!("/api/outbox/{}", put.body["id"].as_str().unwrap());
    let deliver = async || {
        let sql = "update email_outbox set due_at = least(due_at, 1), leased_until = least(leased_until, 1) where account_id = $1";
        owner.execute(sql, &[&customer.id]).await.unwrap();
        let took = work(api, "deliver-message", &[&customer], name).await;
        let shown = api.get(&path).by(&customer.user).send().await;
        check_secrecy(&shown.body.to_string());
        (took, shown.body)
    };
    server.fail(faults);
    let (took, shown) = deliver().await;
    assert_eq!(shown["status"], status, "{name}: {shown}");
    assert!(took < JOB_LIMIT, "{name}: {took:?}");
    let is_sent = |status: &str| usize::from(status == "sent");
    assert_eq!(server.taken().len(), is_sent(status), "{name}: {shown}");
    server.world.lock().unwrap().faults.clear();
    for _ in 0..2 {
        let (_, shown) = deliver().await;
        assert_eq!(shown["status"], later, "{name}: {shown}");
        assert_eq!(server.taken().len(), is_sent(later), "{name}: {shown}");
    }
    (name, took)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_server_answers_to_a_message_it_is_sent_once_or_not_said_to_be() {
    let api = &api().await;
    let entries = table().into_iter().filter_map(|Behaviour { name, does, .. }| match does {
        Does::Submission { extensions, faults, status, later } => Some((name, (extensions, faults), (status, later))),
        _ => None,
    });
    let each = entries.map(|(name, server, statuses)| submit(api, name, server, statuses));
    let times: Vec<_> = stream::iter(each).buffer_unordered(PROCESSES).collect().await;
    let peak = peak(api, "deliver-message");
    summary("sending", &times, peak);
    assert!(peak < JOB_MEMORY, "{peak} KiB");
    check_secrecy(&api.log());
}
