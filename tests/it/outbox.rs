//! The outbox: what is put there, and what becomes of it. Messages go to a real Dovecot, whose submissions end in a sink, or to
//! a model of a server where something goes wrong that a real one does not do. Whatever that is: a message is sent once, and
//! what is said of it is true.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, UNIX_EPOCH};

use ::mail::dns::Resolver;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use shared::account::AccountId;
use shared::identity::{Scope, TenantId, UserId};
use shared::outbox::{Status, Step};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::mailboxes::{OtherClient, connector, connector_by};
use crate::model_imap::{Extensions, Lie, ModelServer, Then, World};
use crate::model_smtp::{At, End, Fault, Heard, SmtpModel, message_id};
use crate::parsers::{self, Asked};
use crate::sign_in::{PASSWORD, mailbox};
use crate::support::{Answer, Api, Service, User, api, mail, mail_api, merged, owner, servers, upload};
use crate::sync_model::{Dice, Worker, poll_times};

pub const TIME: Duration = Duration::from_secs(60);
const ORIGINAL: &[u8] =
    b"From: john@example.com\r\nTo: jane@example.com\r\nSubject: Lunch\r\nMessage-ID: <2@example.com>\r\n\
      In-Reply-To: <1@example.com>\r\nDate: Mon, 2 Nov 2026 10:00:00 +0000\r\n\r\nWhen?\r\n";

/// An account, and a worker for it.
pub struct Rig {
    pub api: &'static Api,
    pub worker: Worker,
    pub owner: Client,
    pub user: User,
    pub scope: Scope,
    pub account: AccountId,
}

impl Rig {
    pub async fn new(api: &'static Api, worker: Worker, settings: Value) -> Self {
        let user = User::new();
        let created = api.create(&user, settings).await;
        Self {
            api,
            worker,
            owner: owner().await,
            scope: Scope { tenant_id: TenantId(user.tenant), user_id: UserId(user.user) },
            user,
            account: AccountId(created["id"].as_str().unwrap().parse().unwrap()),
        }
    }

    /// Of an account that sends by a model server, and keeps no copies.
    pub async fn model(server: &SmtpModel) -> Self {
        let settings = json!({
            "protocol": "pop3", "hostname": "127.0.0.1", "port": 1, "encryption": "none",
            "smtpHostname": "127.0.0.1", "smtpPort": server.port, "smtpEncryption": "none",
        });
        Self::new(api().await, Worker::new().await, settings).await
    }

    /// Of a mailbox on the run's Dovecot.
    async fn dovecot() -> (Self, String) {
        let (name, ports) = (mailbox().await, mail().await.ports());
        let settings = json!({
            "accountName": "Jäne Doe", "emailAddress": name, "username": name, "hostname": "localhost",
            "port": ports.imaps, "password": PASSWORD, "smtpHostname": "localhost", "smtpPort": ports.submissions,
        });
        (Self::new(mail_api().await, Worker::with(connector().await).await, settings).await, name)
    }

    /// Synchronises, and says what lies in the inbox.
    async fn sync(&self) -> Value {
        self.owner.execute("update email_accounts set rung_at = 1 where id = $1", &[&self.account.0]).await.unwrap();
        self.worker.run(&self.scope, self.account, TIME).await.unwrap();
        let path = format!("/api/messages?role=inbox&accountId={}", self.account);
        self.api.get(&path).by(&self.user).send().await.body["messages"][0].clone()
    }

    pub fn message(&self, changes: Value) -> Value {
        let message = json!({
            "accountId": self.account, "to": [{"address": "john@example.com"}], "subject": "Lunch?", "text": "At noon.",
        });
        merged(message, changes)
    }

    pub async fn put(&self, changes: Value) -> Value {
        let answer = self.api.post("/api/outbox", self.message(changes)).by(&self.user).send().await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let path = format!("/api/outbox/{}", answer.body["id"].as_str().unwrap());
        assert_eq!(answer.header("location"), Some(path.as_str()));
        answer.body
    }

    pub async fn get(&self, entry: &Value) -> Value {
        let path = format!("/api/outbox/{}", entry["id"].as_str().unwrap());
        let answer = self.api.get(&path).by(&self.user).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// Lets the time pass for which something waits.
    pub async fn wait(&self) {
        let sql = "update email_outbox set due_at = least(due_at, 1), leased_until = least(leased_until, 1) where account_id = $1";
        self.owner.execute(sql, &[&self.account.0]).await.unwrap();
        let sql = "update email_accounts set sending_held_until = 1 where id = $1 and sending_held_until is not null";
        self.owner.execute(sql, &[&self.account.0]).await.unwrap();
    }

    pub async fn work(&self) {
        self.wait().await;
        self.worker.deliver(&self.scope, self.account, TIME).await.unwrap();
    }

    async fn retry(&self, entry: &Value) -> Answer {
        let path = format!("/api/outbox/{}/retry", entry["id"].as_str().unwrap());
        self.api.request("POST", &path).by(&self.user).send().await
    }
}

pub fn is(entry: &Value) -> (&str, Vec<&str>) {
    let recipients = entry["recipients"].as_array().unwrap().iter();
    (entry["status"].as_str().unwrap(), recipients.map(|recipient| recipient["status"].as_str().unwrap()).collect())
}

/// How long after it was put there an entry is tried next, in minutes.
fn waits(entry: &Value) -> i64 {
    (entry["nextAttemptAt"].as_i64().unwrap() - entry["createdAt"].as_i64().unwrap()) / 60_000
}

pub const OFFERS: [&str; 4] = ["PIPELINING", "SIZE 26214400", "8BITMIME", "ENHANCEDSTATUSCODES"];

/// What goes wrong at the first attempt; what the entry is then; what it is after the next; and how often it was sent.
type Case = (Vec<(At, Fault)>, &'static str, &'static str, usize);

#[tokio::test]
async fn each_fault_of_a_server_has_its_status_and_nothing_is_sent_twice() {
    let cases: Vec<Case> = vec![
        (vec![], "sent", "sent", 1),
        (vec![(At::Greeting, Fault::Say("421 4.3.2 Too many connections"))], "queued", "sent", 1),
        (vec![(At::Greeting, Fault::Say("554 5.7.1 Go away"))], "queued", "sent", 1),
        (vec![(At::Auth, Fault::Say("535 5.7.8 Wrong password"))], "failed", "failed", 0),
        (vec![(At::Auth, Fault::Say("454 4.7.0 Later"))], "queued", "sent", 1),
        (vec![(At::Mail, Fault::Say("552 5.3.4 Too large"))], "rejected", "rejected", 0),
        (vec![(At::Mail, Fault::Say("421 4.7.0 Too much"))], "queued", "sent", 1),
        (vec![(At::Rcpt, Fault::Say("450 4.2.0 Greylisted"))], "queued", "sent", 1),
        (vec![(At::Rcpt, Fault::Say("550 5.1.1 Nobody"))], "rejected", "rejected", 0),
        (vec![(At::Data, Fault::Say("451 4.3.0 Disk"))], "queued", "sent", 1),
        (vec![(At::Dot, Fault::Say("452 4.3.1 Full"))], "queued", "sent", 1),
        (vec![(At::Dot, Fault::Say("554 5.7.1 Spam"))], "rejected", "rejected", 0),
        (vec![(At::Dot, Fault::Say("250"))], "sent", "sent", 0),
        (vec![(At::Dot, Fault::Say("what?"))], "uncertain", "uncertain", 0),
        (vec![(At::Greeting, Fault::Cut)], "queued", "sent", 1),
        (vec![(At::Hello, Fault::Cut)], "queued", "sent", 1),
        (vec![(At::Hello, Fault::CutAfter)], "queued", "sent", 1),
        (vec![(At::Auth, Fault::Cut)], "queued", "sent", 1),
        (vec![(At::Auth, Fault::CutAfter)], "queued", "sent", 1),
        (vec![(At::Mail, Fault::Cut)], "queued", "sent", 1),
        (vec![(At::Mail, Fault::CutAfter)], "queued", "sent", 1),
        (vec![(At::Rcpt, Fault::Cut)], "queued", "sent", 1),
        (vec![(At::Rcpt, Fault::CutAfter)], "queued", "sent", 1),
        (vec![(At::Data, Fault::Cut)], "queued", "sent", 1),
        (vec![(At::Data, Fault::CutAfter)], "queued", "sent", 1),
        // The last dot is out.
        (vec![(At::Dot, Fault::Cut)], "uncertain", "uncertain", 0),
        (vec![(At::Dot, Fault::CutAfter)], "uncertain", "uncertain", 1),
        // It is answered.
        (vec![(At::Quit, Fault::Say("500 5.5.1 What?"))], "sent", "sent", 1),
        (vec![(At::Quit, Fault::Cut)], "sent", "sent", 1),
        (vec![(At::Quit, Fault::CutAfter)], "sent", "sent", 1),
    ];
    // Side by side: a connection that fails takes its time.
    let all = [&OFFERS[..], &[]].into_iter().flat_map(|extensions| cases.iter().map(move |case| (extensions, case)));
    let check = async |(extensions, (faults, first, second, count)): (&[&'static str], &Case)| {
        let server = SmtpModel::start(extensions).await;
        let rig = Rig::model(&server).await;
        let entry = rig.put(json!({})).await;
        assert_eq!(is(&entry), ("queued", vec!["pending"]));
        server.fail(faults.clone());
        rig.work().await;
        let after = rig.get(&entry).await;
        assert_eq!(after["status"], *first, "{faults:?} {after}");
        assert_eq!(after["nextAttemptAt"].is_null(), *first != "queued", "{faults:?} {after}");
        rig.work().await;
        rig.work().await;
        let after = rig.get(&entry).await;
        assert_eq!(after["status"], *second, "{faults:?} {after}");
        assert_eq!(server.taken().len(), *count, "{faults:?} {after}");
        assert!(after["response"].is_string(), "{after}");
    };
    stream::iter(all).map(check).buffer_unordered(8).collect::<Vec<()>>().await;
}

#[tokio::test]
async fn each_recipient_has_a_result_and_only_those_who_are_left_are_tried_again() {
    for extensions in [&OFFERS[..], &[]] {
        let server = SmtpModel::start(extensions).await;
        let rig = Rig::model(&server).await;
        server.answer("b@example.com", &["550 5.1.1 Nobody here"]);
        server.answer("c@example.com", &["450 4.2.1 Busy", "250 OK"]);
        let to = |names: &[&str]| -> Value {
            names.iter().map(|name| json!({"address": format!("{name}@example.com")})).collect()
        };
        let entry = rig.put(json!({"to": to(&["a", "b"]), "cc": to(&["A", "c"]), "bcc": to(&["hidden"])})).await;
        rig.work().await;
        let after = rig.get(&entry).await;
        assert_eq!(is(&after), ("queued", vec!["accepted", "rejected", "pending", "accepted"]), "{after}");
        assert_eq!(after["recipients"][1]["response"], "550 5.1.1 Nobody here");
        rig.work().await;
        let after = rig.get(&entry).await;
        assert_eq!(is(&after), ("sent", vec!["accepted", "rejected", "accepted", "accepted"]), "{after}");
        assert_eq!((&after["attempts"], after["sentAt"].is_i64()), (&json!(2), true));
        let taken = server.taken();
        let recipients: Vec<_> = taken.iter().map(|taken| taken.recipients.clone()).collect();
        assert_eq!(recipients, [vec!["a@example.com", "hidden@example.com"], vec!["c@example.com"]]);
        assert_eq!(taken[0].message, taken[1].message, "each attempt sends the same bytes");
        let text = String::from_utf8(taken[0].message.clone()).unwrap();
        // No letters that a Message-ID could end with.
        assert!(!text.contains("hidden@example.com"), "{text}");
    }
}

/// Whatever its account is called by then.
#[tokio::test]
async fn each_attempt_of_an_answer_in_html_sends_the_same_bytes() {
    let (server, name) = (SmtpModel::start(&OFFERS).await, mailbox().await);
    let settings = json!({
        "accountName": "Jane Doe", "protocol": "pop3", "emailAddress": name, "username": name, "hostname": "localhost",
        "port": mail().await.ports().pop3s, "password": PASSWORD, "smtpHostname": "127.0.0.1", "smtpPort": server.port,
        "smtpEncryption": "none",
    });
    let rig = Rig::new(api().await, Worker::with(connector().await).await, settings).await;
    mail().await.deliver(&name, ORIGINAL).unwrap();
    let original = rig.sync().await;
    server.answer("later@example.com", &["450 4.2.1 Busy", "250 OK"]);
    let to = json!([{"address": "john@example.com"}, {"address": "later@example.com"}]);
    let entry = rig.put(json!({"to": to, "html": "<p>At <b>noon</b>.</p>", "replyToId": original["id"]})).await;
    rig.work().await;
    assert_eq!(is(&rig.get(&entry).await), ("queued", vec!["accepted", "pending"]));
    let path = format!("/api/accounts/{}", rig.account);
    let renamed = rig.api.put(&path, json!({"accountName": "Jane Roe"})).by(&rig.user).send().await;
    assert_eq!((renamed.status, &renamed.body["accountName"]), (200, &json!("Jane Roe")), "{renamed:?}");
    rig.work().await;
    assert_eq!(is(&rig.get(&entry).await), ("sent", vec!["accepted", "accepted"]));
    let taken = server.taken();
    assert_eq!(taken.len(), 2);
    assert_eq!(taken[0].message, taken[1].message);
    let text = String::from_utf8(taken[1].message.clone()).unwrap();
    assert!(text.contains("From: \"Jane Doe\" <") && text.contains("multipart/alternative"), "{text}");
    assert!(text.contains("In-Reply-To: <2@example.com>\r\nReferences: <1@example.com> <2@example.com>\r\n"), "{text}");
}

/// The other of two accounts whose addresses were two, and became one with a later release.
#[tokio::test]
async fn an_account_that_shares_its_address_sends_under_a_name_without_a_space() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    let sql = "update email_accounts set address_key = address_key || ' ' || id where id = $1 returning email_address";
    let address: String = rig.owner.query_one(sql, &[&rig.account.0]).await.unwrap().get(0);
    let entry = rig.put(json!({})).await["id"].as_str().unwrap().to_owned();
    rig.work().await;
    let text = String::from_utf8(server.taken()[0].message.clone()).unwrap();
    let expected = format!("Message-ID: <{entry}@{}>\r\n", address.split_once('@').unwrap().1);
    assert!(text.contains(&expected), "{expected}{text}");
}

/// Forms send both, whatever was written.
#[tokio::test]
async fn html_without_anything_in_it_is_none() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    rig.put(json!({"text": "Hello", "html": " \n"})).await;
    rig.work().await;
    let text = String::from_utf8(server.taken()[0].message.clone()).unwrap();
    assert!(text.contains("Content-Type: text/plain") && !text.contains("text/html"), "{text}");
}

#[tokio::test]
async fn a_limit_of_the_provider_holds_all_of_the_accounts_messages_back() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    let entries = [rig.put(json!({})).await, rig.put(json!({})).await];
    server.fail([(At::Data, Fault::Say("550 5.4.5 Daily user sending limit exceeded."))]);
    rig.work().await;
    assert_eq!(server.world.lock().unwrap().sign_ins, 1, "the second is not even tried");
    for entry in &entries {
        let entry = rig.get(entry).await;
        assert!(entry["status"] == "queued" && (59..=61).contains(&waits(&entry)), "{entry}");
    }
    // What comes later waits as well, whoever is rung for it.
    let later = rig.put(json!({})).await;
    rig.worker.deliver(&rig.scope, rig.account, TIME).await.unwrap();
    let waits = rig.get(&later).await;
    assert_eq!((waits["status"].as_str(), waits["attempts"].as_i64()), (Some("queued"), Some(0)), "{waits}");
    assert_eq!(waits["nextAttemptAt"], rig.get(&entries[1]).await["nextAttemptAt"]);
    assert_eq!(server.world.lock().unwrap().sign_ins, 1);
    rig.work().await;
    assert_eq!(server.taken().len(), 3);
}

/// Greylisting, and a filter that is restarted, end after some minutes.
#[tokio::test]
async fn a_policy_holds_the_account_for_as_long_as_its_message_waits() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    let first = rig.put(json!({})).await;
    server.fail([(At::Rcpt, Fault::Say("450 4.7.1 Greylisted"))]);
    rig.work().await;
    let later = rig.put(json!({})).await;
    rig.worker.deliver(&rig.scope, rig.account, TIME).await.unwrap();
    let (first, later) = (rig.get(&first).await, rig.get(&later).await);
    assert_eq!(
        (waits(&first), &later["attempts"], &later["status"]),
        (1, &json!(0), &json!("queued")),
        "{first} {later}"
    );
    assert_eq!(later["nextAttemptAt"], first["nextAttemptAt"]);
    assert_eq!(server.world.lock().unwrap().sign_ins, 1);
    rig.work().await;
    assert_eq!(server.taken().len(), 2);
}

/// A server that has seen too many sign-ins counts those as well that it refuses.
#[tokio::test]
async fn who_is_to_sign_in_later_does_not_try_it_with_each_of_his_messages() {
    for fault in [
        (At::Greeting, Fault::Say("421 4.7.0 Try again later")),
        (At::Hello, Fault::Say("421 4.7.0 Too many errors")),
        (At::Auth, Fault::Say("454 4.7.0 Too many login attempts")),
    ] {
        let server = SmtpModel::start(&OFFERS).await;
        let rig = Rig::model(&server).await;
        let entries = [rig.put(json!({})).await, rig.put(json!({})).await];
        server.fail([fault.clone()]);
        rig.work().await;
        // Whoever is rung for meanwhile.
        rig.worker.deliver(&rig.scope, rig.account, TIME).await.unwrap();
        // The fault strikes once: a second connection would have been let in.
        assert!(server.world.lock().unwrap().faults.is_empty(), "{fault:?}");
        assert_eq!(server.world.lock().unwrap().sign_ins, 0, "{fault:?}");
        let held = [rig.get(&entries[0]).await, rig.get(&entries[1]).await];
        assert!(held.iter().all(|entry| is(entry) == ("queued", vec!["pending"]) && waits(entry) == 1), "{held:?}");
        assert_eq!(held[0]["nextAttemptAt"], held[1]["nextAttemptAt"], "{fault:?}");
        let attempts = held.iter().map(|entry| entry["attempts"].as_i64().unwrap());
        assert_eq!(attempts.sum::<i64>(), 1, "{fault:?}");
        rig.work().await;
        assert_eq!(server.taken().len(), 2, "{fault:?}");
    }
}

/// The limit is that of a login at a server.
#[tokio::test]
async fn another_login_is_not_held_back_by_the_limit_of_the_one_before() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    rig.put(json!({})).await;
    server.fail([(At::Data, Fault::Say("550 5.4.5 Daily user sending limit exceeded."))]);
    rig.work().await;
    let path = format!("/api/accounts/{}", rig.account);
    let changed =
        rig.api.put(&path, json!({"smtpUsername": "relay", "smtpPassword": "another"})).by(&rig.user).send().await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    rig.put(json!({})).await;
    rig.worker.deliver(&rig.scope, rig.account, TIME).await.unwrap();
    assert_eq!(server.taken().len(), 1);
}

/// In the days that a provider's limit is waited for, one worker may die: that is not the message's doing. Three are.
#[tokio::test]
async fn a_message_is_given_up_when_workers_die_of_it_and_not_when_one_dies() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    let dead = "update email_outbox set status = 'sending', leased_until = 1, due_at = 1 where account_id = $1";
    let old = "update email_outbox set tried_since = epoch_ms() - 30 * 3600 * 1000 where account_id = $1";
    let claim = "select count(*) from claim_outgoing($1, $2, $3, 1000)";
    let claim = async || -> i64 {
        let ids = (&rig.user.tenant, &rig.user.user, &rig.account.0);
        rig.owner.query_one(claim, &[ids.0, ids.1, ids.2]).await.unwrap().get(0)
    };
    let spared = rig.put(json!({})).await;
    rig.owner.execute(dead, &[&rig.account.0]).await.unwrap();
    rig.owner.execute(old, &[&rig.account.0]).await.unwrap();
    rig.work().await;
    assert_eq!(is(&rig.get(&spared).await).0, "sent");

    // Of what some have got already the sender keeps a copy.
    let partly = rig.put(json!({})).await;
    let sql = "update email_outbox set status = 'sending', deaths = 2, copy = 'due', leased_until = 1, due_at = 1,
                   tried_since = epoch_ms() - 30 * 3600 * 1000 where id = $1::text::uuid";
    rig.owner.execute(sql, &[&partly["id"].as_str().unwrap()]).await.unwrap();
    let sql = "select task, (entry).status from claim_outgoing($1, $2, $3, 1000)";
    let row = rig.owner.query_one(sql, &[&rig.user.tenant, &rig.user.user, &rig.account.0]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("copy", "failed"));
    rig.owner.execute("delete from email_outbox where account_id = $1", &[&rig.account.0]).await.unwrap();

    let poison = rig.put(json!({})).await;
    let dead = "update email_outbox set due_at = 1 where account_id = $1 and status = 'sending'";
    for takes in [1, 1, 1, 0] {
        assert_eq!(claim().await, takes);
        rig.owner.execute(old, &[&rig.account.0]).await.unwrap();
        rig.owner.execute(dead, &[&rig.account.0]).await.unwrap();
    }
    let given_up = rig.get(&poison).await;
    assert_eq!((is(&given_up).0, given_up["attempts"].as_i64()), ("failed", Some(3)), "{given_up}");
    assert_eq!(rig.retry(&poison).await.status, 202);
    // It begins anew, with the shortest of pauses.
    server.fail([(At::Mail, Fault::Say("451 4.3.0 Not now"))]);
    rig.work().await;
    let delayed = rig.get(&poison).await;
    assert_eq!((waits(&delayed), &delayed["attempts"]), (1, &json!(4)), "{delayed}");
    rig.work().await;
    assert_eq!(is(&rig.get(&poison).await).0, "sent");
}

/// Something of a mailbox, or of what is to be put there, may end each worker that comes.
#[tokio::test]
async fn a_look_of_which_workers_die_is_given_up_like_one_in_vain() {
    let rig = Rig::model(&SmtpModel::start(&OFFERS).await).await;
    for (status, copy, given_up) in
        [("sent", "due", "abandoned"), ("uncertain", "due", "abandoned"), ("uncertain", "none", "none")]
    {
        let entry = rig.put(json!({})).await;
        let id: Uuid = entry["id"].as_str().unwrap().parse().unwrap();
        let sql = "update email_outbox set status = $2, copy = $3, looks = 25, due_at = 1 where id = $1";
        rig.owner.execute(sql, &[&id, &status, &copy]).await.unwrap();
        let claim = async || -> i64 {
            let sql = "select count(*) from claim_outgoing($1, $2, $3, 1000)";
            let count = rig.owner.query_one(sql, &[&rig.user.tenant, &rig.user.user, &rig.account.0]).await.unwrap();
            rig.owner
                .execute("update email_outbox set due_at = 1 where id = $1 and due_at is not null", &[&id])
                .await
                .unwrap();
            count.get(0)
        };
        assert_eq!([claim().await, claim().await, claim().await], [1, 1, 0], "{status}");
        let sql = "select status || ' ' || copy || ' ' || looks from email_outbox where id = $1";
        let left: String = rig.owner.query_one(sql, &[&id]).await.unwrap().get(0);
        assert_eq!(left, format!("{status} {given_up} 27"));
    }
}

/// A worker whose note is not answered notes it again.
#[tokio::test]
async fn an_end_that_is_noted_twice_counts_once() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    let entry = rig.put(json!({})).await;
    let ids: [&(dyn ToSql + Sync); 2] = [&rig.user.tenant, &rig.user.user];
    let sql = "select (entry).id, (entry).lease_token, (entry).recipients from claim_outgoing($1, $2, $3, 1000)";
    let claimed = rig.owner.query_one(sql, &[ids[0], ids[1], &rig.account.0]).await.unwrap();
    let (id, token, recipients): (Uuid, i64, String) = (claimed.get(0), claimed.get(1), claimed.get(2));
    let sql =
        "select is_noted from finish_outgoing($1, $2, $3, $4, 'queued', $5, '{}', null, 'none', 0, 0, null, true)";
    for expected in [true, false] {
        let noted = rig.owner.query_one(sql, &[ids[0], ids[1], &id, &token, &recipients]).await.unwrap();
        assert_eq!(noted.get::<_, bool>(0), expected);
    }
    let entry = rig.get(&entry).await;
    assert_eq!((&entry["status"], &entry["attempts"]), (&json!("queued"), &json!(0)), "{entry}");
}

#[tokio::test]
async fn a_refused_login_is_the_accounts_state_and_not_tried_at_once_again() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    let entries = [rig.put(json!({})).await, rig.put(json!({})).await];
    server.fail([(At::Auth, Fault::Say("535 5.7.8 Bad credentials"))]);
    rig.work().await;
    let account = rig.api.get(&format!("/api/accounts/{}", rig.account)).by(&rig.user).send().await.body;
    assert_eq!((&account["state"], &account["lastError"]["service"]), (&json!("authenticationError"), &json!("smtp")));
    for entry in &entries {
        let entry = rig.get(entry).await;
        assert_eq!(is(&entry), ("failed", vec!["pending"]));
        assert!(entry["response"].as_str().unwrap().contains("Bad credentials"), "{entry}");
    }
    assert_eq!(server.world.lock().unwrap().commands.iter().filter(|line| line.starts_with("AUTH")).count(), 1);
    // The user knows better, or does not: what the service still owes to those who read is theirs.
    let planned = "select next_sync_at, failures::int8 from email_accounts where id = $1";
    let planned = async || -> (Option<i64>, i64) {
        let row = rig.owner.query_one(planned, &[&rig.account.0]).await.unwrap();
        (row.get(0), row.get(1))
    };
    let owed = planned().await;
    assert!(owed.0.is_some() && owed.1 == 1, "{owed:?}");
    for (refuses, status) in [(true, "failed"), (false, "sent")] {
        rig.owner
            .execute("update email_accounts set last_error_at = 1 where id = $1", &[&rig.account.0])
            .await
            .unwrap();
        assert_eq!(rig.retry(&entries[0]).await.status, 202);
        if refuses {
            server.fail([(At::Auth, Fault::Say("535 5.7.8 Bad credentials"))]);
        }
        rig.work().await;
        assert_eq!((is(&rig.get(&entries[0]).await).0, planned().await), (status, owed));
    }
}

/// The login for reading says nothing of another one for sending.
#[tokio::test]
async fn a_login_that_is_refused_where_mail_is_read_stops_nobody_who_sends_with_another() {
    let server = SmtpModel::start(&OFFERS).await;
    for (own, sent) in [(json!({}), false), (json!({"smtpUsername": "relay", "smtpPassword": "another"}), true)] {
        let settings = json!({
            "protocol": "pop3", "hostname": "127.0.0.1", "port": 1, "encryption": "none",
            "smtpHostname": "127.0.0.1", "smtpPort": server.port, "smtpEncryption": "none",
        });
        let rig = Rig::new(api().await, Worker::new().await, merged(settings, own)).await;
        let entry = rig.put(json!({})).await;
        let sql = "update email_accounts set state = 'authenticationError', last_error_code = 'authentication',
                       last_error_message = 'No.', last_error_service = 'pop3', last_error_at = epoch_ms()
                   where id = $1";
        rig.owner.execute(sql, &[&rig.account.0]).await.unwrap();
        rig.work().await;
        let entry = rig.get(&entry).await;
        assert_eq!(is(&entry).0, if sent { "sent" } else { "failed" }, "{entry}");
    }
}

#[tokio::test]
async fn what_nobody_knows_is_tried_again_by_its_user_alone() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    let entry = rig.put(json!({})).await;
    server.fail([(At::Dot, Fault::CutAfter)]);
    rig.work().await;
    let path = format!("/api/outbox/{}", entry["id"].as_str().unwrap());
    rig.api.delete(&path).by(&rig.user).send().await.is_refused(409);
    assert_eq!((is(&rig.get(&entry).await).0, server.taken().len()), ("uncertain", 1));
    let retried = rig.retry(&entry).await;
    assert_eq!((retried.status, is(&retried.body).0), (202, "queued"));
    rig.retry(&entry).await.is_refused(409);
    rig.work().await;
    assert_eq!((is(&rig.get(&entry).await).0, server.taken().len()), ("sent", 2), "as its user wanted");
    rig.retry(&entry).await.is_refused(409);
}

#[tokio::test]
async fn starttls_that_is_gone_sends_nothing() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    rig.owner
        .execute("update email_accounts set smtp_encryption = 'starttls' where id = $1", &[&rig.account.0])
        .await
        .unwrap();
    let entry = rig.put(json!({})).await;
    rig.work().await;
    let after = rig.get(&entry).await;
    assert_eq!((is(&after).0, server.world.lock().unwrap().sign_ins), ("queued", 0), "{after}");
}

#[tokio::test]
async fn an_address_of_any_script_needs_a_server_that_takes_it() {
    let to = json!({"to": [{"address": "jürgen@bücher.example"}]});
    let plain = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&plain).await;
    let entry = rig.put(to.clone()).await;
    let other = rig.put(json!({"to": [{"address": "j@bücher.example"}]})).await;
    rig.work().await;
    let after = rig.get(&entry).await;
    assert_eq!(is(&after), ("rejected", vec!["rejected"]), "{after}");
    assert!(after["response"].as_str().unwrap().contains("5.6.7"), "{after}");
    assert_eq!(is(&rig.get(&other).await).0, "sent");
    assert_eq!(plain.taken()[0].recipients, ["j@xn--bcher-kva.example"]);
    let modern = SmtpModel::start(&[&OFFERS[..], &["SMTPUTF8"]].concat()).await;
    let rig = Rig::model(&modern).await;
    rig.put(to).await;
    rig.work().await;
    assert_eq!(modern.taken()[0].recipients, ["jürgen@xn--bcher-kva.example"]);
    assert!(modern.world.lock().unwrap().commands.iter().any(|line| line.ends_with("BODY=8BITMIME SMTPUTF8")));
}

#[tokio::test]
async fn a_worker_that_dies_has_sent_it_or_not_and_the_next_one_knows_or_says_so() {
    for dies_after_dot in [false, true] {
        let server = SmtpModel::start(&OFFERS).await;
        let rig = Rig::model(&server).await;
        let entry = rig.put(json!({})).await;
        let sql = "update email_outbox set status = 'sending', attempts = 1, tried_since = epoch_ms(), leased_until = 1, due_at = 1,
                       dot_at = case when $2 then 1 end, doubtful = case when $2 then '{0}'::integer[] else '{}' end
                   where account_id = $1";
        rig.owner.execute(sql, &[&rig.account.0, &dies_after_dot]).await.unwrap();
        rig.work().await;
        let after = rig.get(&entry).await;
        let expected = if dies_after_dot { ("uncertain", 0) } else { ("sent", 1) };
        assert_eq!((is(&after).0, server.taken().len()), expected, "{after}");
    }
}

/// The functions of the database take the steps that [`Status::after`] has, and no others.
#[tokio::test]
async fn the_database_takes_the_same_steps() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    for status in Status::ALL {
        for step in [Step::Begun, Step::Canceled, Step::Retried] {
            let entry = rig.put(json!({})).await;
            let id: Uuid = entry["id"].as_str().unwrap().parse().unwrap();
            let is_due = matches!(status, Status::Scheduled | Status::Queued | Status::Sending);
            let sql = "update email_outbox set status = $2, due_at = case when $3 then 1 end where id = $1";
            rig.owner.execute(sql, &[&id, &status.as_str(), &is_due]).await.unwrap();
            let sql = match step {
                Step::Begun => "select count(*) from claim_outgoing($1, $2, $3, 1000) where task = 'send'",
                Step::Canceled => "select count(*) from cancel_outgoing($1, $2, $3) where is_done",
                _ => "select count(*) from retry_outgoing($1, $2, $3) where is_done",
            };
            let of = if step == Step::Begun { rig.account.0 } else { id };
            let mut client = crate::support::connect(&servers().await.postgres.owner_url("app")).await;
            let transaction = client.transaction().await.unwrap();
            let done: i64 = transaction.query_one(sql, &[&rig.user.tenant, &rig.user.user, &of]).await.unwrap().get(0);
            transaction.commit().await.unwrap();
            let now = rig.get(&entry).await;
            let expected = status.after(step);
            assert_eq!(done > 0, expected.is_some(), "{status:?} {step:?} {now}");
            assert_eq!(now["status"], expected.unwrap_or(status).as_str(), "{status:?} {step:?}");
            rig.owner.execute("delete from email_outbox where id = $1", &[&id]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_message_is_sent_later_or_taken_back() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    let now = crate::support::now_seconds() as i64 * 1000;
    let later = rig.put(json!({"sendAt": now + 3_600_000})).await;
    assert_eq!((&later["status"], &later["nextAttemptAt"]), (&json!("scheduled"), &json!(now + 3_600_000)));
    let past = rig.put(json!({"sendAt": now - 3_600_000})).await;
    assert_eq!(past["status"], "queued");
    rig.worker.deliver(&rig.scope, rig.account, TIME).await.unwrap();
    assert_eq!((is(&rig.get(&past).await).0, is(&rig.get(&later).await).0), ("sent", "scheduled"));
    let path = format!("/api/outbox/{}", later["id"].as_str().unwrap());
    let canceled = rig.api.delete(&path).by(&rig.user).send().await;
    assert_eq!((canceled.status, &canceled.body["status"]), (200, &json!("canceled")));
    rig.api.delete(&path).by(&rig.user).send().await.is_refused(409);
    rig.work().await;
    assert_eq!(server.taken().len(), 1);
    // Its date is of then.
    let later = rig.put(json!({"sendAt": now + 2 * 86_400_000})).await;
    rig.work().await;
    assert_eq!(is(&rig.get(&later).await).0, "sent");
    let text = String::from_utf8(server.taken()[1].message.clone()).unwrap();
    let day = |message: &[u8]| String::from_utf8_lossy(message).lines().next().unwrap()[..16].to_owned();
    assert_ne!(day(&server.taken()[0].message), day(text.as_bytes()));
}

/// A race of both ends in exactly one outcome, and each of the two is seen: whoever has won comes a little later the next
/// time.
#[tokio::test]
async fn who_takes_back_and_who_sends_do_not_both_win() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    let (mut outcomes, mut rounds) = (BTreeMap::new(), 0);
    let [mut user_waits, mut worker_waits] = [Duration::ZERO; 2];
    let step = Duration::from_millis(1);
    while rounds < 20 || outcomes.len() < 2 {
        rounds += 1;
        assert!(rounds < 300, "{outcomes:?}");
        let before = server.taken().len();
        let entry = rig.put(json!({})).await;
        let path = format!("/api/outbox/{}", entry["id"].as_str().unwrap());
        let delete = async {
            tokio::time::sleep(user_waits).await;
            rig.api.delete(&path).by(&rig.user).send().await
        };
        let deliver = async {
            tokio::time::sleep(worker_waits).await;
            rig.worker.deliver(&rig.scope, rig.account, TIME).await
        };
        let (answer, worked) = tokio::join!(delete, deliver);
        worked.unwrap();
        let (status, sent) =
            (rig.get(&entry).await["status"].as_str().unwrap().to_owned(), server.taken().len() - before);
        match answer.status {
            200 => assert_eq!((status.as_str(), sent), ("canceled", 0)),
            409 => assert_eq!((status.as_str(), sent), ("sent", 1)),
            _ => panic!("{answer:?}"),
        }
        let (winner, other) = match answer.status {
            200 => (&mut user_waits, &mut worker_waits),
            _ => (&mut worker_waits, &mut user_waits),
        };
        match other.is_zero() {
            true => *winner += step,
            false => *other = other.saturating_sub(step),
        }
        *outcomes.entry(status).or_insert(0) += 1;
    }
}

#[tokio::test]
async fn a_real_server_gets_it_once_and_the_sent_folder_has_one_copy() {
    let (rig, name) = Rig::dovecot().await;
    let marker = Uuid::new_v4().to_string();
    let entry = rig
        .put(json!({
            "to": [{"name": "John \"J\" Döe", "address": "john@example.com"}], "bcc": [{"address": "boss@example.com"}],
            "subject": format!("Mittag? 午\u{3000}餐 {marker}"), "text": ".\n..dot\nÜber\n", "html": "<p>Über</p>",
        }))
        .await;
    rig.work().await;
    let after = rig.get(&entry).await;
    assert_eq!(is(&after), ("sent", vec!["accepted", "accepted"]), "{after}");
    assert_eq!(after["from"], json!({"name": "Jäne Doe", "address": name}));
    let sink = mail().await.sink();
    let deliveries = || sink.deliveries().into_iter().filter(|delivery| delivery.sender == name).collect::<Vec<_>>();
    let delivered = deliveries();
    assert_eq!(delivered.len(), 1);
    assert_eq!(delivered[0].recipients, ["john@example.com", "boss@example.com"]);
    let parsed = parsers::read(&delivered[0].message);
    assert_eq!(parsed["subject"], format!("Mittag? 午\u{3000}餐 {marker}"));
    assert_eq!(parsed["to"], json!([["John \"J\" Döe", "john@example.com"]]));
    assert_eq!(parsed["from"], json!([["Jäne Doe", name]]));
    assert_eq!(parsed["bcc"], json!([]));
    assert_eq!((&parsed["text"], &parsed["html"]), (&json!(".\n..dot\nÜber"), &json!("<p>Über</p>")));
    assert_eq!(parsed["messageId"], json!([format!("<{}>", after["messageId"].as_str().unwrap())]));

    // The copy is made once, whatever is done again.
    for _ in 0..3 {
        rig.owner
            .execute("update email_outbox set copy = 'due', due_at = 1 where account_id = $1", &[&rig.account.0])
            .await
            .unwrap();
        rig.work().await;
    }
    rig.owner.execute("update email_accounts set rung_at = 1 where id = $1", &[&rig.account.0]).await.unwrap();
    rig.worker.run(&rig.scope, rig.account, TIME).await.unwrap();
    let path = format!("/api/messages?role=sent&accountId={}", rig.account);
    let sent = rig.api.get(&path).by(&rig.user).send().await.body;
    let [copy] = &sent["messages"].as_array().unwrap()[..] else { panic!("{sent}") };
    assert_eq!((&copy["messageId"], &copy["isRead"]), (&after["messageId"], &json!(true)));
    assert_eq!(copy["bcc"], json!([{"name": null, "address": "boss@example.com"}]));
    assert_eq!(deliveries().len(), 1);
}

/// Names, texts and files of all kinds, all the way: by the endpoint, the queue, the object store, the worker and a real server.
#[tokio::test]
async fn what_is_asked_for_is_what_a_real_server_hands_to_readers() {
    const COUNT: usize = 20;
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let (user, name, ports) = (User::new(), mailbox().await, mail().await.ports());
    // POP3 has no folder for copies.
    let settings = json!({
        "accountName": "=?utf-8?Q?Jane?= Doe", "protocol": "pop3", "emailAddress": name, "username": name,
        "hostname": "localhost", "port": ports.pop3s, "password": PASSWORD, "smtpHostname": "localhost",
        "smtpPort": ports.submissions,
    });
    let account = service.api.create(&user, settings).await;
    let (mut dice, mut all) = (Dice::new(11), Vec::new());
    for n in 0..COUNT {
        let asked = Asked::roll(&mut dice, n);
        let mut uploads = Vec::new();
        for (file, bytes) in &asked.files {
            uploads.push(upload(&service, &user, file.filename.unwrap(), bytes.clone()).await);
        }
        let more = json!({"accountId": account["id"], "bcc": [{"address": "boss@example.com"}]});
        let answer = service.api.post("/api/outbox", merged(asked.body(&uploads), more)).by(&user).send().await;
        assert_eq!(answer.status, 202, "{answer:?}");
        all.push((asked, answer.body));
    }
    // The queue has 250 ms for an endpoint's bell, which a busy machine may not grant.
    let bell = json!({"tenantId": user.tenant, "userId": user.user, "accountId": account["id"]}).to_string();
    service.queues.send("OutboxQueue", &[bell]).await.unwrap();
    for (_, entry) in &all {
        let is_its = |line: &Value| line["message"] == "message_tried" && line["outgoingId"] == entry["id"];
        let tried = service.api.log_line(is_its).await;
        assert_eq!(tried["status"], "sent", "{tried}");
    }
    let deliveries = mail().await.sink().deliveries().into_iter().filter(|delivery| delivery.sender == name);
    let mut delivered: BTreeMap<String, Vec<u8>> =
        deliveries.map(|delivery| (message_id(&delivery.message), delivery.message)).collect();
    assert_eq!(delivered.len(), COUNT);
    let (mut messages, mut expected) = (Vec::new(), Vec::new());
    for (asked, entry) in &all {
        let id = entry["messageId"].as_str().unwrap();
        messages.push(delivered.remove(id).unwrap());
        let head = json!({
            "from": [["=?utf-8?Q?Jane?= Doe", name]], "messageId": [format!("<{id}>")], "inReplyTo": [], "references": [],
        });
        expected.push(merged(asked.read(), head));
    }
    parsers::are_read_as(&messages, &expected);
}

#[tokio::test]
async fn what_lies_in_the_sent_folder_was_sent() {
    let (rig, name) = Rig::dovecot().await;
    mail().await.deliver(&name, ORIGINAL).unwrap();
    let original = rig.sync().await;
    let entry = rig.put(json!({"replyToId": original["id"]})).await;
    rig.work().await;
    let mut other = OtherClient::sign_in(&name).await;
    other.say("SELECT INBOX").await;
    other.say("UID STORE 1:* -FLAGS (\\Answered)").await;
    let sql = "update email_outbox set status = 'uncertain', dot_at = 1, doubtful = '{0}', due_at = 1, sent_at = null, copy = 'none',
                   recipients = replace(recipients, 'accepted', 'pending') where account_id = $1";
    rig.owner.execute(sql, &[&rig.account.0]).await.unwrap();
    assert_eq!(is(&rig.get(&entry).await), ("uncertain", vec!["pending"]));
    rig.work().await;
    let after = rig.get(&entry).await;
    assert_eq!(is(&after), ("sent", vec!["accepted"]), "{after}");
    assert_eq!(rig.sync().await["isAnswered"], true);
    assert!(other.say("EXAMINE Sent").await.iter().any(|line| line == "* 1 EXISTS"), "one copy");
    // What does not lie there stays what it is.
    let sql = "update email_outbox set status = 'uncertain', message_id = 'other@example.com', due_at = 1 where account_id = $1";
    rig.owner.execute(sql, &[&rig.account.0]).await.unwrap();
    rig.work().await;
    assert_eq!(is(&rig.get(&entry).await).0, "uncertain");
}

/// The copy that lies there may be of the attempt that reached one of them, and says nothing of another.
#[tokio::test]
async fn what_lies_in_the_sent_folder_may_be_of_an_earlier_attempt() {
    let (rig, _) = Rig::dovecot().await;
    let to = json!([{"address": "reached@example.com"}, {"address": "doubtful@example.com"}]);
    let entry = rig.put(json!({"to": to})).await;
    rig.work().await;
    assert_eq!(is(&rig.get(&entry).await), ("sent", vec!["accepted", "accepted"]));
    // The second was not taken then, and when it was tried again the connection broke after the dot.
    let sql = "update email_outbox set status = 'uncertain', dot_at = 1, doubtful = '{1}', due_at = 1, sent_at = null,
                   recipients = regexp_replace(recipients, 'accepted(?!.*accepted)', 'pending') where account_id = $1";
    rig.owner.execute(sql, &[&rig.account.0]).await.unwrap();
    rig.work().await;
    assert_eq!(is(&rig.get(&entry).await), ("uncertain", vec!["accepted", "pending"]));
    let sql = "select due_at is null from email_outbox where account_id = $1";
    assert!(
        rig.owner.query_one(sql, &[&rig.account.0]).await.unwrap().get::<_, bool>(0),
        "it is not looked for any more"
    );
}

/// So it may be of an attempt of which nobody knows, after which its user had it tried again: it tells of those who were asked for
/// both times.
#[tokio::test]
async fn what_lies_in_the_sent_folder_tells_of_those_who_were_in_doubt_at_each_attempt() {
    for (first, second, found) in [("{0}", "{0,1}", false), ("{0,1}", "{0,1}", true), ("{0,1}", "{1}", true)] {
        let (rig, _) = Rig::dovecot().await;
        let to = json!([{"address": "first@example.com"}, {"address": "second@example.com"}]);
        let entry = rig.put(json!({"to": to})).await;
        rig.work().await;
        let doubt =
            "update email_outbox set status = 'uncertain', dot_at = 1, doubtful = $2::text::integer[], due_at = null,
                         sent_at = null, copy = 'none', recipients = replace(recipients, 'accepted', 'pending')
                     where account_id = $1";
        rig.owner.execute(doubt, &[&rig.account.0, &first]).await.unwrap();
        assert_eq!(rig.retry(&entry).await.status, 202);
        rig.owner.execute(doubt, &[&rig.account.0, &second]).await.unwrap();
        let due = "update email_outbox set due_at = 1 where account_id = $1";
        rig.owner.execute(due, &[&rig.account.0]).await.unwrap();
        rig.work().await;
        let after = rig.get(&entry).await;
        let expected = if found && second == "{0,1}" {
            "sent"
        } else if found {
            "queued"
        } else {
            "uncertain"
        };
        assert_eq!(is(&after).0, expected, "{first} {second} {after}");
    }
}

/// The second was not taken at first, and of the attempt for him nobody knows: the first has the message, and so has the sender.
#[tokio::test]
async fn the_senders_copy_is_made_although_nobody_knows_of_the_rest() {
    let (server, name) = (SmtpModel::start(&OFFERS).await, mailbox().await);
    let settings = json!({
        "emailAddress": name, "username": name, "hostname": "localhost", "port": mail().await.ports().imaps,
        "password": PASSWORD, "smtpHostname": "localhost", "smtpPort": server.port, "smtpEncryption": "none",
    });
    let connector = connector_by(Resolver::new(&[everybody_is_here().await])).await;
    let rig = Rig::new(api().await, Worker::with(connector).await, settings).await;
    let to = json!([{"address": "first@example.com"}, {"address": "second@example.com"}]);
    let entry = rig.put(json!({"to": to})).await;
    // The first command of a kind is the first recipient's.
    server.fail([(At::Rcpt, Fault::Say("450 4.2.1 busy"))]);
    rig.work().await;
    assert_eq!(is(&rig.get(&entry).await), ("queued", vec!["pending", "accepted"]));
    server.fail([(At::Dot, Fault::CutAfter)]);
    rig.work().await;
    assert_eq!(is(&rig.get(&entry).await), ("uncertain", vec!["pending", "accepted"]));
    let copy = "select copy, due_at is null from email_outbox where account_id = $1";
    let copy = async || {
        let row = rig.owner.query_one(copy, &[&rig.account.0]).await.unwrap();
        (row.get::<_, String>(0), row.get::<_, bool>(1))
    };
    rig.worker.deliver(&rig.scope, rig.account, TIME).await.unwrap();
    assert_eq!(copy().await, ("done".to_owned(), true));
    assert_eq!(is(&rig.get(&entry).await), ("uncertain", vec!["pending", "accepted"]), "and nobody knows still");
    assert_eq!(server.taken().len(), 2);
    // So it is where the worker died after the dot.
    let sql = "update email_outbox set status = 'sending', dot_at = 1, doubtful = '{0}', copy = 'due', due_at = 1, leased_until = 1
               where account_id = $1";
    rig.owner.execute(sql, &[&rig.account.0]).await.unwrap();
    rig.work().await;
    assert_eq!(copy().await, ("done".to_owned(), true));
    assert_eq!(is(&rig.get(&entry).await), ("uncertain", vec!["pending", "accepted"]));
    let mut other = OtherClient::sign_in(&name).await;
    other.say("SELECT Sent").await;
    assert_eq!(other.say("UID SEARCH ALL").await[0].split(' ').count(), 3, "one copy");
}

/// The account's messages go within a minute, the answer is kept for a day.
#[tokio::test]
async fn what_is_sent_again_with_its_key_after_its_account_is_gone_is_a_conflict() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    let send = async || {
        let request = rig.api.post("/api/outbox", rig.message(json!({}))).by(&rig.user);
        request.header("idempotency-key", "k-1").send().await
    };
    assert_eq!(send().await.status, 202);
    let path = format!("/api/accounts/{}", rig.account);
    assert!(rig.api.delete(&path).by(&rig.user).send().await.status < 300);
    assert_eq!(send().await.status, 202, "as it was then");
    // As the purge does it.
    rig.owner.execute("delete from email_outbox where account_id = $1", &[&rig.account.0]).await.unwrap();
    let again = send().await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (409, Some("true")), "{again:?}");
    assert!(again.body["message"].as_str().unwrap().contains("deleted"), "{again:?}");
}

#[tokio::test]
async fn a_reply_names_what_it_answers_and_marks_it() {
    let (rig, name) = Rig::dovecot().await;
    mail().await.deliver(&name, ORIGINAL).unwrap();
    let before = rig.sync().await;
    assert_eq!(before["isAnswered"], false);
    rig.put(json!({"replyToId": before["id"]})).await;
    rig.work().await;
    let delivered = mail().await.sink().deliveries().into_iter().find(|delivery| delivery.sender == name).unwrap();
    let text = String::from_utf8(delivered.message).unwrap();
    assert!(text.contains("In-Reply-To: <2@example.com>\r\nReferences: <1@example.com> <2@example.com>\r\n"), "{text}");
    let answered = rig.sync().await;
    assert_eq!(answered["isAnswered"], true);
    // Both are of one thread, the copy in the sent folder too.
    let path = format!("/api/messages?threadId={}", answered["threadId"].as_str().unwrap());
    let thread = rig.api.get(&path).by(&rig.user).send().await.body;
    let subjects: Vec<_> = thread["messages"].as_array().unwrap().iter().map(|message| &message["subject"]).collect();
    assert_eq!(subjects, ["Lunch?", "Lunch"]);
}

/// It is marked with the next look, and that it cannot be is not said of the copy.
#[tokio::test]
async fn a_mark_that_fails_is_made_later() {
    let (sender, mut world) = (SmtpModel::start(&OFFERS).await, World::new(Extensions::default()));
    world.append("INBOX", 0);
    let server = ModelServer::start(world).await;
    let settings = json!({
        "hostname": "127.0.0.1", "port": server.port(), "encryption": "none",
        "smtpHostname": "smtp.gmail.com", "smtpPort": sender.port, "smtpEncryption": "none",
    });
    let connector = connector_by(Resolver::new(&[everybody_is_here().await])).await;
    let rig = Rig::new(api().await, Worker::with(connector).await, settings).await;
    let original = rig.sync().await;
    let copy = async |entry: &Value| -> String {
        let id: Uuid = entry["id"].as_str().unwrap().parse().unwrap();
        rig.owner.query_one("select copy from email_outbox where id = $1", &[&id]).await.unwrap().get(0)
    };
    let is_marked = || server.world().folders["INBOX"].messages[&1].flags & 4 != 0;
    for then in [Then::HangUp, Then::GoOn] {
        server.world().flag("INBOX", 0, 0);
        server.world().lies = vec![Lie::new("UID STORE", "{tag} NO [INUSE] not now\r\n", then)];
        let entry = rig.put(json!({"replyToId": original["id"]})).await;
        rig.work().await;
        assert_eq!(
            (rig.get(&entry).await["status"].clone(), copy(&entry).await),
            (json!("sent"), "due".into()),
            "{then:?}"
        );
        server.world().flag("INBOX", 0, 0);
        server.world().lies.clear();
        rig.work().await;
        assert_eq!((is_marked(), copy(&entry).await.as_str()), (true, "done"), "{then:?}");
    }
    server.world().lies = vec![Lie::new("UID STORE", "{tag} NO [NOPERM] never\r\n", Then::GoOn)];
    let entry = rig.put(json!({"replyToId": original["id"]})).await;
    let looks = async || -> i16 {
        let sql = "select max(looks) from email_outbox where account_id = $1 and copy = 'due'";
        rig.owner.query_one(sql, &[&rig.account.0]).await.unwrap().get(0)
    };
    rig.work().await;
    assert_eq!(looks().await, 1);
    while copy(&entry).await == "due" {
        assert!(looks().await < 4, "what is there is found, whatever becomes of the mark");
        rig.work().await;
    }
    assert_eq!((rig.get(&entry).await["status"].clone(), copy(&entry).await), (json!("sent"), "done".into()));
    assert_eq!(sender.world.lock().unwrap().taken.len(), 3);
}

/// Gmail and Exchange file what is sent by them, and POP3 has no folders.
#[tokio::test]
async fn a_reply_is_marked_as_well_where_no_copy_is_ours_to_file() {
    let ports = mail().await.ports();
    for (protocol, port) in [("imap", ports.imaps), ("pop3", ports.pop3s)] {
        let (server, name) = (SmtpModel::start(&OFFERS).await, mailbox().await);
        let settings = json!({
            "protocol": protocol, "emailAddress": name, "username": name, "hostname": "localhost", "port": port,
            "password": PASSWORD,
            "smtpHostname": "smtp.gmail.com", "smtpPort": server.port, "smtpEncryption": "none",
        });
        let connector = connector_by(Resolver::new(&[everybody_is_here().await])).await;
        let rig = Rig::new(api().await, Worker::with(connector).await, settings).await;
        mail().await.deliver(&name, ORIGINAL).unwrap();
        let before = rig.sync().await;
        assert_eq!(before["isAnswered"], false, "{protocol}");
        let cursor = rig.api.get("/api/changes").by(&rig.user).send().await.body["cursor"].as_str().unwrap().to_owned();
        let entry = rig.put(json!({"replyToId": before["id"]})).await;
        rig.work().await;
        assert_eq!(rig.get(&entry).await["status"], "sent", "{protocol}");
        if protocol == "imap" {
            rig.sync().await;
        }
        let path = format!("/api/messages?role=inbox&accountId={}", rig.account);
        let listed = rig.api.get(&path).by(&rig.user).send().await.body;
        assert_eq!(listed["messages"][0]["isAnswered"], true, "{protocol}");
        let told = rig.api.get(&format!("/api/changes?since={cursor}")).by(&rig.user).send().await.body;
        let is_message = |change: &Value| (&change["id"], &change["change"]) == (&before["id"], &json!("updated"));
        assert!(told["changes"].as_array().unwrap().iter().any(is_message), "{protocol}: {told}");
        let mut reader = OtherClient::sign_in(&name).await;
        let examined = reader.say("EXAMINE \"Sent\"").await;
        assert!(examined.iter().any(|line| line == "* 0 EXISTS"), "{examined:?}");
    }
}

/// A name server for which each name is this machine's.
pub async fn everybody_is_here() -> SocketAddr {
    const A: [u8; 2] = [0, 1];
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut question = [0; 1500];
        loop {
            let (length, client) = socket.recv_from(&mut question).await.unwrap();
            let end = 12 + question[12..length].iter().position(|byte| *byte == 0).unwrap() + 5;
            let is_known = question[end - 4..end - 2] == A;
            let mut answer = question[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_known), 0, 0, 0, 0]);
            answer.extend(&question[12..end]);
            if is_known {
                answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            socket.send_to(&answer, client).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_page_of_the_outbox_has_the_newest_first() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(rig.put(json!({"subject": format!("{n}"), "sendAt": 4_000_000_000_000_i64.min(crate::support::now_seconds() as i64 * 1000 + 9_000_000)})).await["id"].clone());
    }
    ids.reverse();
    let (mut found, mut path) = (Vec::new(), "/api/outbox?limit=2".to_owned());
    loop {
        let page = rig.api.get(&path).by(&rig.user).send().await.body;
        found.extend(page["entries"].as_array().unwrap().iter().map(|entry| entry["id"].clone()));
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        path = format!("/api/outbox?limit=2&cursor={cursor}");
    }
    assert_eq!(found, ids);
    // Large ones make a page shorter.
    for _ in 0..4 {
        rig.put(json!({"text": "x".repeat(900_000)})).await;
    }
    let page = rig.api.get("/api/outbox").by(&rig.user).send().await.body;
    assert_eq!((page["entries"].as_array().unwrap().len(), page["nextCursor"].is_string()), (2, true));
    let answer = rig.api.get("/api/outbox?limit=0&cursor=x").by(&rig.user).send().await;
    assert_eq!(answer.faults(), ["cursor", "limit"]);
    let large = rig.message(json!({"text": "x".repeat(1_048_576)}));
    rig.api.post("/api/outbox", large).by(&rig.user).send().await.is_refused(413);
}

#[tokio::test]
async fn an_outbox_is_its_users_alone() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    let entry = rig.put(json!({"sendAt": crate::support::now_seconds() * 1000 + 9_000_000})).await;
    let one = format!("/api/outbox/{}", entry["id"].as_str().unwrap());
    let requests =
        |one: &str| [rig.api.get(one), rig.api.delete(one), rig.api.request("POST", &format!("{one}/retry"))];
    for request in requests(&one)
        .into_iter()
        .chain([rig.api.get("/api/outbox"), rig.api.post("/api/outbox", rig.message(json!({})))])
    {
        request.send().await.is_refused(401);
    }
    for stranger in [rig.user.colleague(), User { user: rig.user.user, ..User::new() }, User::new()] {
        for request in requests(&one) {
            request.by(&stranger).send().await.is_refused(404);
        }
        assert_eq!(rig.api.get("/api/outbox").by(&stranger).send().await.body["entries"], json!([]));
        let answer = rig.api.post("/api/outbox", rig.message(json!({}))).by(&stranger).send().await;
        assert_eq!((answer.status, answer.faults()), (400, vec!["accountId"]));
    }
    for unknown in [format!("/api/outbox/{}", Uuid::now_v7()), "/api/outbox/7".to_owned()] {
        for request in requests(&unknown) {
            request.by(&rig.user).send().await.is_refused(404);
        }
    }
    for field in ["replyToId", "forwardOfId"] {
        let answer =
            rig.api.post("/api/outbox", rig.message(json!({field: Uuid::now_v7()}))).by(&rig.user).send().await;
        assert_eq!((answer.status, answer.faults()), (400, vec![field]));
    }
    assert_eq!(is(&rig.get(&entry).await).0, "scheduled", "nobody has touched it");
    // With its account it is gone, and so is what was to be sent.
    rig.api.delete(&format!("/api/accounts/{}", rig.account)).by(&rig.user).send().await;
    for request in requests(&one) {
        request.by(&rig.user).send().await.is_refused(404);
    }
    rig.work().await;
    assert!(server.taken().is_empty());
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_at_once() {
    let user = User::new();
    let api = api().await;
    let account = api.create(&user, json!({})).await;
    let message = json!({"accountId": account["id"], "to": [{"address": "john@example.com"}]});
    api.post("/api/outbox", message.clone()).by(&user).send().await.is_refused(409);
    let evil = "x\r\nBcc: evil@example.com";
    // Good but for its line break.
    let quoted = "\"x\r\nBcc: evil\"@example.com";
    let bad = json!({
        "accountId": evil, "to": [{"name": evil, "address": evil}], "subject": evil, "replyToId": evil, "forwardOfId": evil,
        "draftId": evil, "cc": [{"address": quoted}], "bcc": [{"address": quoted}],
        "replyTo": [{"name": evil, "address": quoted}],
        "attachments": [{"uploadId": evil, "filename": evil, "contentType": evil, "contentId": evil}],
    });
    let answer = api.post("/api/outbox", bad).by(&user).send().await;
    let expected = [
        "accountId",
        "attachments[0].contentId",
        "attachments[0].contentType",
        "attachments[0].filename",
        "attachments[0].uploadId",
        "bcc[0].address",
        "cc[0].address",
        "draftId",
        "forwardOfId",
        "replyToId",
        "replyTo[0].address",
        "replyTo[0].name",
        "subject",
        "to[0].address",
        "to[0].name",
    ];
    assert_eq!((answer.status, answer.faults()), (400, expected.to_vec()));
    let mut env = servers().await.env();
    env.insert("SEND_PER_HOUR", "2".to_owned());
    env.insert("USER_SEND_PER_HOUR", "3".to_owned());
    let limited = Api::start(env).await;
    let is_limited = async |account: &Value, limit: Option<u64>| {
        let message = merged(message.clone(), json!({"accountId": account["id"]}));
        let answer = limited.post("/api/outbox", message).by(&user).send().await;
        let Some(limit) = limit else {
            assert_eq!(answer.status, 202, "{answer:?}");
            return;
        };
        answer.is_refused(429);
        let number = |name: &str| -> u64 { answer.header(name).unwrap().parse().unwrap() };
        let seconds = number("retry-after");
        assert!((3500..=3600).contains(&seconds), "{seconds}");
        // Not those of the common limit, of which nearly all is left.
        assert_eq!((number("x-ratelimit-limit"), number("x-ratelimit-remaining")), (limit, 0));
        let resets_after = number("x-ratelimit-reset") - crate::support::now_seconds();
        assert!((3500..=3601).contains(&resets_after), "{resets_after}");
        let fields = [format!(r#""default";q={limit};w=3600"#), format!(r#""default";r=0;t={seconds}"#)];
        assert_eq!(["ratelimit-policy", "ratelimit"].map(|name| answer.header(name).unwrap()), fields);
    };
    let create = async |address: &str| {
        let smtp = json!({"emailAddress": address, "smtpHostname": "smtp.example.com"});
        limited.create(&user, smtp).await
    };
    // Two of an account, however often it is made; three of its user.
    let first = create("b@example.com").await;
    for limit in [None, None, Some(2)] {
        is_limited(&first, limit).await;
    }
    let path = format!("/api/accounts/{}", first["id"].as_str().unwrap());
    assert_eq!(limited.delete(&path).by(&user).send().await.status, 200);
    is_limited(&create("B@example.com").await, Some(2)).await;
    let second = create("c@example.com").await;
    is_limited(&second, None).await;
    is_limited(&second, Some(3)).await;
    is_limited(&create("d@example.com").await, Some(3)).await;
}

/// With the real processes: an endpoint rings, and a worker sends; what is scheduled, the schedule rings for.
#[tokio::test]
async fn what_is_put_into_the_outbox_leaves_it_by_itself() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let (user, name, ports) = (User::new(), mailbox().await, mail().await.ports());
    let settings = json!({
        "emailAddress": name, "username": name, "hostname": "localhost", "port": ports.imaps, "password": PASSWORD,
        "smtpHostname": "localhost", "smtpPort": ports.submissions,
    });
    let account = service.api.create(&user, settings).await;
    let put = async |changes: Value| {
        let message = json!({"accountId": account["id"], "to": [{"address": "john@example.com"}], "subject": "Lunch?"});
        let answer = service.api.post("/api/outbox", merged(message, changes)).by(&user).send().await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.body["id"].as_str().unwrap().to_owned()
    };
    let is_sent = async |id: &str| {
        let started = Instant::now();
        loop {
            let entry = service.api.get(&format!("/api/outbox/{id}")).by(&user).send().await.body;
            if entry["status"] == "sent" {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{entry}\n{}", service.api.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let id = put(json!({})).await;
    is_sent(&id).await;
    // A file goes along, and is read piece by piece; a draft is gone with it; the same key sends nothing more.
    let file: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    let announced = json!({"filename": "Bericht ü.bin", "contentType": "application/octet-stream", "size": file.len()});
    let upload = service.api.post("/api/uploads", announced).by(&user).send().await.body;
    let mut request = reqwest::Client::new().put(upload["url"].as_str().unwrap()).body(file.clone());
    for (name, value) in upload["headers"].as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    assert!(request.send().await.unwrap().status().is_success());
    let draft = service.api.post("/api/drafts", json!({"subject": "x"})).by(&user).send().await.body;
    let message = json!({
        "accountId": account["id"], "to": [{"address": "file@example.com"}], "draftId": draft["id"],
        "attachments": [{"uploadId": upload["id"]}],
    });
    let send = async || {
        service.api.post("/api/outbox", message.clone()).by(&user).header("idempotency-key", "k-1").send().await
    };
    let (first, second) = (send().await, send().await);
    assert_eq!((first.status, second.status), (202, 202), "{second:?}");
    assert_eq!((&first.body, second.header("idempotency-replayed")), (&second.body, Some("true")));
    let path = format!("/api/drafts/{}", draft["id"].as_str().unwrap());
    service.api.get(&path).by(&user).send().await.is_refused(404);
    is_sent(first.body["id"].as_str().unwrap()).await;
    let delivered = mail().await.sink().deliveries();
    let delivered: Vec<_> = delivered.iter().filter(|delivery| delivery.recipients == ["file@example.com"]).collect();
    assert_eq!(delivered.len(), 1);
    let parsed = parsers::read(&delivered[0].message);
    let sent = json!([["Bericht ü.bin", "application/octet-stream", "attachment", null, STANDARD.encode(&file)]]);
    assert!(parsed["files"] == sent, "its name, its type and each of its bytes");
    let id = put(json!({"sendAt": crate::support::now_seconds() * 1000 + 9_000_000})).await;
    // Until the worker of the first one has made its copy and gone, it would take the second one as well.
    let busy = "select count(*) from email_outbox where status = 'sent' and due_at is not null";
    while service.owner.query_one(busy, &[]).await.unwrap().get::<_, i64>(0) > 0 {}
    service
        .api
        .log_lines(1, |line| line["message"] == "job" && line["outcome"] == "done" && line["attempt"] == 1)
        .await;
    let sql = "update email_outbox set due_at = 1, ring_at = epoch_ms() - 5000 where status = 'scheduled'";
    assert_eq!(service.owner.execute(sql, &[]).await.unwrap(), 1);
    let turn = service.tick().await;
    assert_eq!(turn["messagesDue"], 1, "{turn}");
    assert!((5..60).contains(&turn["messagesLagSeconds"].as_u64().unwrap()), "{turn}");
    is_sent(&id).await;
    assert_eq!(service.tick().await["messagesDue"], 0);
    let sender = |delivery: &local::smtp_sink::Delivery| delivery.sender == name;
    assert_eq!(mail().await.sink().deliveries().iter().filter(|delivery| sender(delivery)).count(), 3);
}

/// docs/OPERATIONS.md, "Restore": what was due at the moment that is restored may have been sent since.
#[tokio::test]
async fn a_restored_database_sends_nothing_again_but_what_its_user_wants_sent_again() {
    let env = BTreeMap::from([("MAIL_ALLOW_PLAINTEXT", "true".to_owned())]);
    let (service, server) = (Service::start(Duration::from_secs(60), env).await, SmtpModel::start(&OFFERS).await);
    let (api, user) = (&service.api, User::new());
    let settings = json!({
        "protocol": "pop3", "hostname": "127.0.0.1", "port": 1, "encryption": "none",
        "smtpHostname": "127.0.0.1", "smtpPort": server.port, "smtpEncryption": "none",
    });
    let account = api.create(&user, settings).await;
    let in_an_hour = UNIX_EPOCH.elapsed().unwrap().as_millis() + 3600 * 1000;
    let message = json!({
        "accountId": account["id"], "to": [{"address": "jane@example.com"}, {"address": "john@example.com"}],
        "subject": "Lunch?", "sendAt": in_an_hour,
    });
    let put = async || {
        let answer = api.post("/api/outbox", message.clone()).by(&user).send().await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.body["id"].as_str().unwrap().to_owned()
    };
    let get = async |id: &str| api.get(&format!("/api/outbox/{id}")).by(&user).send().await.body;
    let later = put().await;
    let due = [put().await, put().await, put().await];
    // The last has reached one of its recipients.
    for (id, status, first) in
        [(&due[0], "queued", "pending"), (&due[1], "scheduled", "pending"), (&due[2], "sending", "accepted")]
    {
        let sql = "update email_outbox
                   set status = $2, due_at = 1, ring_at = 1, leased_until = 1, recipients = regexp_replace(recipients, 'pending', $3)
                   where id = $1::text::uuid";
        assert_eq!(service.owner.execute(sql, &[id, &status, &first]).await.unwrap(), 1);
    }
    let known = api.get("/api/changes").by(&user).send().await.body["cursor"].as_str().unwrap().to_owned();

    // As the owner's login of a managed server: no superuser, and bound by policies as everybody.
    let login = format!("restorer_{}", user.user.simple());
    let page = crate::tidy::read("docs/OPERATIONS.md");
    let block = page.split("```sql\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let become_it = format!("create role {login} in role email_service_owner; set session authorization {login}");
    for sql in [become_it.as_str(), block, &format!("reset session authorization; drop role {login}")] {
        service.owner.batch_execute(sql).await.unwrap();
    }

    assert_eq!(service.tick().await["messagesDue"], 3);
    let looked_for = "select count(*) from email_outbox where status = 'uncertain' and due_at is null";
    let looked = async {
        while service.owner.query_one(looked_for, &[]).await.unwrap().get::<_, i64>(0) < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), looked).await.is_ok(), "{}", api.log());
    assert_eq!(is(&get(&later).await), ("scheduled", vec!["pending", "pending"]));
    for (id, recipients) in due.iter().zip([["pending", "pending"], ["pending", "pending"], ["accepted", "pending"]]) {
        let entry = get(id).await;
        assert_eq!(is(&entry), ("uncertain", recipients.to_vec()), "{entry}");
        assert!(entry["response"].as_str().unwrap().contains("may have been sent"), "{entry}");
    }
    assert!(server.taken().is_empty());
    let sql = "select doubtful from email_outbox where id = $1::text::uuid";
    let doubtful: Vec<i32> = service.owner.query_one(sql, &[&due[2]]).await.unwrap().get(0);
    assert_eq!(doubtful, [1]);
    // What clients know is of another past.
    api.get(&format!("/api/changes?since={known}")).by(&user).send().await.is_refused(410);
    // Nobody goes past the policies from now on.
    let sql = "select count(*) from pg_class where relrowsecurity and not relforcerowsecurity";
    assert_eq!(service.owner.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0);

    let answer = api.request("POST", &format!("/api/outbox/{}/retry", due[2])).by(&user).send().await;
    assert_eq!(answer.status, 202, "{answer:?}");
    // The queue has 250 ms there, which a busy machine may not grant.
    let bell = json!({"tenantId": user.tenant, "userId": user.user, "accountId": account["id"]}).to_string();
    service.queues.send("OutboxQueue", &[bell]).await.unwrap();
    let started = Instant::now();
    while get(&due[2]).await["status"] != "sent" {
        assert!(started.elapsed() < Duration::from_secs(30), "{}", api.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let taken: Vec<_> = server.taken().into_iter().map(|taken| taken.recipients).collect();
    assert_eq!(taken, [vec!["john@example.com"]]);
    assert_eq!(is(&get(&later).await).0, "scheduled");
}

/// The files of what could not be sent do not count for ever.
#[tokio::test]
async fn a_message_that_nobody_tries_again_keeps_its_files_for_a_month() {
    const MONTH: i64 = 30 * 24 * 3600 * 1000;
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let (user, name, ports) = (User::new(), mailbox().await, mail().await.ports());
    let settings = json!({
        "emailAddress": name, "username": name, "hostname": "localhost", "port": ports.imaps, "password": PASSWORD,
        "smtpHostname": "localhost", "smtpPort": ports.submissions,
    });
    let account = service.api.create(&user, settings).await;
    let in_a_day = UNIX_EPOCH.elapsed().unwrap().as_millis() + 24 * 3600 * 1000;
    let put = async |files: &[&Value]| {
        let attachments: Vec<_> = files.iter().map(|id| json!({"uploadId": id})).collect();
        let message = json!({
            "accountId": account["id"], "to": [{"address": "john@example.com"}], "sendAt": in_a_day, "attachments": attachments,
        });
        let answer = service.api.post("/api/outbox", message).by(&user).send().await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.body["id"].as_str().unwrap().to_owned()
    };
    let fail = async |id: &str, age: i64| {
        let sql =
            "update email_outbox set status = 'failed', tried_since = epoch_ms() - $2, due_at = null, ring_at = null
                   where id = $1::text::uuid";
        service.owner.execute(sql, &[&id, &age]).await.unwrap();
    };
    let used_by = async |file: &Value| -> Vec<String> {
        let sql = "select used_by::text[] from email_uploads where id = $1::text::uuid and (unused_since is null) = (used_by <> '{}')";
        service.owner.query_one(sql, &[&file.as_str().unwrap()]).await.unwrap().get(0)
    };
    let retried = async |id: &str, end: &str| {
        let path = format!("/api/outbox/{id}");
        let answer = service.api.request("POST", &format!("{path}/retry")).by(&user).send().await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let started = Instant::now();
        loop {
            let entry = service.api.get(&path).by(&user).send().await.body;
            if entry["status"] == end {
                return entry;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{entry}\n{}", service.api.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let [own, shared, lost] = ["own", "shared", "lost"].map(|name| upload(&service, &user, name, vec![b'x'; 10]));
    let (own, shared, lost) = (own.await, shared.await, lost.await);
    let (failed, other) = (put(&[&own, &shared]).await, put(&[&shared]).await);

    fail(&failed, MONTH - 60_000).await;
    assert_eq!(service.tick().await["releasedMessages"], 0);
    assert_eq!((used_by(&own).await, used_by(&shared).await.len()), (vec![failed.clone()], 2));
    fail(&failed, MONTH + 1).await;
    assert_eq!(service.tick().await["releasedMessages"], 1);
    assert_eq!((used_by(&own).await, used_by(&shared).await), (vec![], vec![other.clone()]));
    assert_eq!(service.tick().await["releasedMessages"], 0, "once");

    // Its user may still change his mind for a day.
    retried(&failed, "sent").await;
    // Until the sender's copy is made, too.
    let started = Instant::now();
    while used_by(&own).await != Vec::<String>::new() {
        assert!(started.elapsed() < Duration::from_secs(90), "{}", service.api.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(used_by(&shared).await, [other]);

    // Later it is said what is missing, and nothing is sent without it.
    let late = put(&[&lost]).await;
    fail(&late, MONTH + 1).await;
    assert_eq!(service.tick().await["releasedMessages"], 1);
    let sql = "update email_uploads set unused_since = unused_since - 25 * 3600 * 1000 - 1 where id = $1::text::uuid";
    service.owner.execute(sql, &[&lost.as_str().unwrap()]).await.unwrap();
    assert_eq!(service.tick().await["purgedUploads"], 1);
    let entry = retried(&late, "failed").await;
    assert!(entry["response"].as_str().unwrap().contains("is gone"), "{entry}");
}

/// What hangs on a message goes along with its forward, which names the whole thread; a file that was never put does not go.
#[tokio::test]
async fn a_forward_takes_the_files_along() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let (user, name, ports) = (User::new(), mailbox().await, mail().await.ports());
    let original = "From: john@example.com\r\nSubject: Files\r\nMessage-ID: <3@example.com>\r\nIn-Reply-To: <2@example.com>\r\n\
                    References: <1@example.com>\r\n <2@example.com>\r\nMIME-Version: 1.0\r\n\
                    Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: text/plain\r\n\r\nSee.\r\n\
                    --x\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename*=UTF-8''%C3%BC.pdf\r\n\
                    Content-Transfer-Encoding: base64\r\n\r\nAAEC/w==\r\n\
                    --x\r\nContent-Type: image/png\r\nContent-Disposition: inline; filename=a.png\r\nContent-ID: <logo@x>\r\n\
                    Content-Transfer-Encoding: base64\r\n\r\niVBORw0K\r\n--x--\r\n";
    mail().await.deliver(&name, original.as_bytes()).unwrap();
    let settings = json!({
        "emailAddress": name, "username": name, "hostname": "localhost", "port": ports.imaps, "password": PASSWORD,
        "smtpHostname": "localhost", "smtpPort": ports.submissions,
    });
    let account = service.api.create(&user, settings).await;
    let path = format!("/api/accounts/{}/sync", account["id"].as_str().unwrap());
    assert_eq!(service.api.request("POST", &path).by(&user).send().await.status, 202);
    let started = Instant::now();
    let message = loop {
        let listed = service.api.get("/api/messages?role=inbox").by(&user).send().await.body;
        if let Some(message) = listed["messages"].get(0) {
            break message.clone();
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{}", service.api.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let path = format!("/api/messages/{}/uploads", message["id"].as_str().unwrap());
    let copy = async |who: &User, body: Value| service.api.post(&path, body).by(who).send().await;
    for stranger in [user.colleague(), User { user: user.user, ..User::new() }] {
        copy(&stranger, json!({})).await.is_refused(404);
    }
    let answer = copy(&user, json!({"attachmentIds": ["99", "x"]})).await;
    assert_eq!((answer.status, answer.faults()), (400, vec!["attachmentIds[0]", "attachmentIds[1]"]));
    for bad in [json!("1"), json!([1]), json!(vec!["x"; 101])] {
        assert_eq!(copy(&user, json!({"attachmentIds": bad})).await.faults(), ["attachmentIds"]);
    }
    let copied = copy(&user, json!({})).await;
    assert_eq!(copied.status, 201, "{copied:?}");
    let [pdf, picture] = &copied.body["attachments"].as_array().unwrap()[..] else { panic!("{copied:?}") };
    assert_eq!((&pdf["filename"], &pdf["isInline"]), (&json!("ü.pdf"), &json!(false)));
    assert_eq!((&picture["contentId"], &picture["isInline"]), (&json!("logo@x"), &json!(true)));
    let announced = json!({"filename": "never.put", "contentType": "text/plain", "size": 3});
    let never = service.api.post("/api/uploads", announced).by(&user).send().await.body;
    let forward = |attachments: Value| {
        json!({
            "accountId": account["id"], "to": [{"address": "forward@example.com"}], "subject": "Fwd: Files",
            "html": "<img src=cid:logo@x>", "forwardOfId": message["id"], "attachments": attachments,
        })
    };
    let missing = forward(json!([pdf, {"uploadId": never["id"]}]));
    let send = async |body: Value| service.api.post("/api/outbox", body).by(&user).send().await;
    let refused = send(missing).await;
    refused.is_refused(409);
    assert!(refused.body["message"].as_str().unwrap().contains("never put"), "{refused:?}");
    let sent = send(forward(copied.body["attachments"].clone())).await;
    assert_eq!(sent.status, 202, "{sent:?}");
    let delivered = loop {
        let deliveries = mail().await.sink().deliveries();
        if let Some(delivery) = deliveries.into_iter().find(|delivery| delivery.recipients == ["forward@example.com"]) {
            break String::from_utf8(delivery.message).unwrap();
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{}", service.api.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(delivered.contains("References: <1@example.com> <2@example.com> <3@example.com>\r\n"), "{delivered}");
    assert!(!delivered.contains("In-Reply-To"), "{delivered}");
    assert!(delivered.contains("Content-ID: <logo@x>\r\n") && delivered.contains("iVBORw0K"), "{delivered}");
    let picture = json!(["a.png", "image/png", "inline", "<logo@x>", "iVBORw0K"]);
    let pdf = json!(["ü.pdf", "application/pdf", "attachment", null, "AAEC/w=="]);
    assert_eq!(parsers::read(delivered.as_bytes())["files"], json!([picture, pdf]));
}

/// How many messages are sent; `OUTBOX_SENDS` asks for another number.
const SENDS: usize = 100;

/// Messages that are sent while workers die at any moment, and connections with them.
struct Turmoil {
    rig: Rig,
    server: SmtpModel,
    dice: Dice,
    sends: usize,
}

impl Turmoil {
    fn new(rig: Rig, server: SmtpModel) -> Self {
        let sends = std::env::var("OUTBOX_SENDS").ok().map_or(SENDS, |sends| sends.parse().unwrap());
        let seed = std::env::var("OUTBOX_SEED").ok().map_or(0x5EED, |seed| seed.parse().unwrap());
        Self { rig, server, dice: Dice::new(seed), sends }
    }

    /// Who is to die is polled at most so often; the server fails at these places.
    async fn rage(&mut self, polls: usize, places: &[At]) {
        let Self { rig, server, dice, sends } = self;
        let faults = [Fault::Cut, Fault::CutAfter, Fault::Say("451 4.3.0 Not now"), Fault::Say("421 4.3.0 Bye")];
        for _ in (0..*sends).step_by(10) {
            // Past the endpoint, which would count what an hour takes.
            for _ in 0..10 {
                insert(rig).await;
            }
            for _ in 0..60 {
                rig.wait().await;
                for _ in 0..dice.roll(3) {
                    server.fail([(places[dice.roll(places.len())], faults[dice.roll(faults.len())].clone())]);
                }
                let mut work = Box::pin(rig.worker.deliver(&rig.scope, rig.account, TIME));
                // Who drops it has killed a process there.
                let times = if dice.roll(4) == 0 { usize::MAX } else { dice.roll(polls) };
                if let Some(outcome) = poll_times(&mut work, times).await {
                    outcome.unwrap();
                    if server.world.lock().unwrap().faults.is_empty() && unsettled(rig).await == 0 {
                        break;
                    }
                }
            }
            server.world.lock().unwrap().faults.clear();
        }
        rig.work().await;
        rig.work().await;
    }

    /// The status of each message, by its Message-ID. Each is at the server at most once; what is said to be sent is there,
    /// and what is not there is not said to be; and nobody says that he does not know without a reason: the server was told
    /// all but the dot at least.
    async fn truths(&self) -> BTreeMap<String, String> {
        // It learns of those who were killed.
        let connections = self.server.world.lock().unwrap().connections.clone();
        let left = async {
            while connections.now() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await
            }
        };
        tokio::time::timeout(TIME, left).await.unwrap();
        let (counts, heard) = {
            let world = self.server.world.lock().unwrap();
            let mut counts = BTreeMap::<String, usize>::new();
            world.taken.iter().for_each(|taken| *counts.entry(taken.message_id()).or_default() += 1);
            let is_whole = |heard: &&Heard| heard.end == End::Dot || heard.message.ends_with(b"At noon.\r\n");
            (
                counts,
                world.heard.iter().filter(is_whole).map(|heard| message_id(&heard.message)).collect::<BTreeSet<_>>(),
            )
        };
        let sql = "select message_id, status from email_outbox where account_id = $1";
        let rows = self.rig.owner.query(sql, &[&self.rig.account.0]).await.unwrap();
        let statuses: BTreeMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let mut kinds = BTreeMap::<&str, usize>::new();
        for (message_id, status) in &statuses {
            let count = counts.get(message_id).copied().unwrap_or_default();
            assert!(count <= 1, "{message_id} was sent {count} times");
            match status.as_str() {
                "sent" => assert_eq!(count, 1, "{message_id} is said to be sent"),
                "uncertain" => assert!(heard.contains(message_id), "{message_id}: the server was never told all of it"),
                status => assert_eq!(count, 0, "{message_id} is {status}"),
            }
            *kinds.entry(status).or_default() += 1;
        }
        println!("{} messages: {kinds:?}", self.sends);
        assert!(kinds["sent"] > self.sends / 2, "{kinds:?}");
        assert_eq!(statuses.len(), self.sends);
        statuses
    }
}

#[tokio::test]
async fn whatever_dies_a_message_is_sent_at_most_once_and_what_is_said_of_it_is_true() {
    let server = SmtpModel::start(&OFFERS).await;
    let mut turmoil = Turmoil::new(Rig::model(&server).await, server);
    turmoil.rage(60, &At::ALL).await;
    turmoil.truths().await;
}

/// The mailbox is a real Dovecot's. Of every second message the server files a copy there before it says that it took it, as
/// some providers do; the other copies are ours. Whatever dies, there is one of each message that was sent and none of the
/// others, and what lies there is known to be sent.
#[tokio::test]
async fn whatever_dies_the_sent_folder_has_one_copy_of_what_was_sent_and_settles_what_nobody_knew() {
    let server = SmtpModel::start(&OFFERS).await;
    let (name, port) = (mailbox().await, mail().await.ports().imaps);
    let settings = json!({
        "emailAddress": name, "username": name, "hostname": "localhost", "port": port, "password": PASSWORD,
        "smtpHostname": "127.0.0.1", "smtpPort": server.port, "smtpEncryption": "none",
    });
    let rig = Rig::new(api().await, Worker::with(connector().await).await, settings).await;
    let (filer, mut taken) = mpsc::unbounded_channel();
    server.world.lock().unwrap().filer = Some(filer);
    let mut provider = OtherClient::sign_in(&name).await;
    let filing = tokio::spawn(async move {
        let (mut filed, mut count) = (BTreeSet::new(), 0);
        while let Some((message, done)) = taken.recv().await {
            count += 1;
            if count % 2 == 1 {
                provider.append("Sent", &message).await;
                filed.insert(message_id(&message));
            }
            let _ = done.send(());
        }
        filed
    });
    let mut turmoil = Turmoil::new(rig, server);
    turmoil.sends /= 2;
    // One is settled for certain, whatever the dice say.
    turmoil.server.fail([(At::Dot, Fault::CutAfter)]);
    insert(&turmoil.rig).await;
    turmoil.rig.work().await;
    turmoil.rage(150, &[At::Dot]).await;
    turmoil.sends += 1;
    turmoil.server.world.lock().unwrap().filer = None;
    let (filed, statuses) = (filing.await.unwrap(), turmoil.truths().await);
    let mut reader = OtherClient::sign_in(&name).await;
    reader.say("EXAMINE \"Sent\"").await;
    let lines = reader.say("UID FETCH 1:* (BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])").await;
    let lying: Vec<_> =
        lines.iter().filter(|line| line.starts_with("Message-ID: ")).map(|line| message_id(line.as_bytes())).collect();
    for (message_id, status) in &statuses {
        let copies = lying.iter().filter(|lies| *lies == message_id).count();
        assert_eq!(copies, usize::from(status == "sent"), "{message_id} is {status}, and lies there {copies} times");
        assert!(
            status != "uncertain" || !filed.contains(message_id),
            "{message_id} lies there, and nobody has seen it"
        );
    }
    let settled =
        "select count(*) from email_outbox where account_id = $1 and response like '%lies in the sent folder%'";
    let settled: i64 = turmoil.rig.owner.query_one(settled, &[&turmoil.rig.account.0]).await.unwrap().get(0);
    println!("{} filed by the server, {settled} settled by what lies there", filed.len());
    assert!(settled > 0);
}

async fn unsettled(rig: &Rig) -> i64 {
    let sql = "select count(*) from email_outbox where account_id = $1 and status in ('queued', 'sending')";
    rig.owner.query_one(sql, &[&rig.account.0]).await.unwrap().get(0)
}

async fn insert(rig: &Rig) -> Uuid {
    let id = Uuid::now_v7();
    let content = json!({
        "accountId": rig.account, "to": [{"name": null, "address": "john@example.com"}], "cc": [], "bcc": [], "replyTo": [],
        "subject": null, "text": "At noon.", "html": null, "attachments": [], "replyToId": null, "forwardOfId": null, "sendAt": null,
    });
    let recipients = json!([{"address": "john@example.com", "status": "pending", "response": null}]);
    let sql = "select outcome from insert_outgoing($1, $2, $3, $4, $5, $6, null, null, null, '{}', '{}', null, 26214400, null, null, null, null)";
    let row = rig
        .owner
        .query_one(
            sql,
            &[&rig.user.tenant, &rig.user.user, &id, &rig.account.0, &content.to_string(), &recipients.to_string()],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "created");
    id
}
