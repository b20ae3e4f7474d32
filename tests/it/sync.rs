//! Asking for a synchronisation, watching it and ending it. The rows are as a worker would leave them.

use std::time::Duration;

use local::emulator::Emulator;
use local::template::Queue;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Answer, Api, User, api, connect, folder_row, message_row, owner, servers, store};

const MINUTE: i64 = 60_000;

fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64
}

/// The path of an account's synchronisation.
fn sync_of(account: &Value) -> String {
    format!("/api/accounts/{}/sync", account["id"].as_str().unwrap())
}

/// Columns of an account's row, as JSON.
async fn row(account: &Value) -> Value {
    let sql = "select to_jsonb(a)::text from email_accounts a where id = $1::text::uuid";
    let row = owner().await.query_one(sql, &[&account["id"].as_str().unwrap()]).await.unwrap();
    serde_json::from_str(row.get(0)).unwrap()
}

/// Changes an account's row as its owner.
async fn set(account: &Value, columns: &str) {
    let sql = format!("update email_accounts set {columns} where id = '{}'", account["id"].as_str().unwrap());
    owner().await.batch_execute(&sql).await.unwrap();
}

async fn ask(user: &User, account: &Value) -> Answer {
    api().await.request("POST", &sync_of(account)).by(user).send().await
}

async fn status(user: &User, account: &Value) -> Value {
    let answer = api().await.get(&sync_of(account)).by(user).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

async fn cancel(user: &User, account: &Value) {
    let answer = api().await.delete(&sync_of(account)).by(user).send().await;
    assert_eq!((answer.status, answer.body), (200, json!({"status": "idle"})));
}

/// A turn of a worker, by hand: the lease's token.
async fn begin(mail: &tokio_postgres::Client, user: &User, account: &Value) -> (Uuid, i64) {
    let id: Uuid = account["id"].as_str().unwrap().parse().unwrap();
    set(account, "rung_at = 1, leased_until = null").await;
    let begun = "select outcome, (account).lease_token from begin_sync($1, $2, $3, 120000) limit 1";
    let begun = mail.query_one(begun, &[&user.tenant, &user.user, &id]).await.unwrap();
    assert_eq!(begun.get::<_, &str>(0), "begun");
    (id, begun.get(1))
}

/// Somebody has to look soon, and the worker that is just at it may have been there already.
#[tokio::test]
async fn what_was_rung_for_during_a_turn_is_due_after_it() {
    let user = User::new();
    let account = api().await.create(&user, json!({})).await;
    let mail = connect(&servers().await.postgres.mail_url("app")).await;
    for (meanwhile, more, error, is_due) in [
        ("is_syncing = false", false, None, false),
        ("next_sync_at = epoch_ms()", false, None, true),
        // The schedule has done so by now, and its worker found this one.
        ("rung_at = epoch_ms(), next_sync_at = epoch_ms() + 300000", false, None, true),
        ("next_sync_at = epoch_ms()", true, None, false),
        ("next_sync_at = epoch_ms()", false, Some("unreachable"), false),
    ] {
        let (id, token) = begin(&mail, &user, &account).await;
        set(&account, meanwhile).await;
        let words = error.map(|_| "imap");
        let end = "select finish_sync($1, $2, $3, $4, $5, true, 'connected', 0, 300000, $6, $7, $7)";
        let is_noted: bool =
            mail.query_one(end, &[&user.tenant, &user.user, &id, &token, &more, &error, &words]).await.unwrap().get(0);
        assert!(is_noted);
        let next = row(&account).await["next_sync_at"].as_i64().unwrap();
        assert_eq!(next <= now(), is_due, "{meanwhile}");
        assert_eq!(row(&account).await["rung_at"].is_null(), !more, "{meanwhile}");
    }
    // Never is never.
    let (id, token) = begin(&mail, &user, &account).await;
    set(&account, "next_sync_at = epoch_ms()").await;
    let end = "select finish_sync($1, $2, $3, $4, false, false, 'credentialsMissing', 0, null, null, null, null)";
    mail.query_one(end, &[&user.tenant, &user.user, &id, &token]).await.unwrap();
    assert!(row(&account).await["next_sync_at"].is_null());
}

/// Nobody lives to say it: what is left is a lease that has run out.
#[tokio::test]
async fn an_account_of_which_five_workers_have_died_is_given_up_until_one_ends_its_turn() {
    const RUNG: &str = "rung_at = 1";
    const DEAD: &str = "leased_until = 1";
    let (api, user) = (api().await, User::new());
    let account = api.create(&user, json!({})).await;
    let id: Uuid = account["id"].as_str().unwrap().parse().unwrap();
    let mail = connect(&servers().await.postgres.mail_url("app")).await;
    let begin = async || {
        let sql = "select outcome, lease_token from begin_turn($1, $2, $3, 120000)";
        let row = mail.query_one(sql, &[&user.tenant, &user.user, &id]).await.unwrap();
        (row.get::<_, String>(0), row.get::<_, Option<i64>>(1))
    };
    let begin_as = async |columns: &str| {
        set(&account, columns).await;
        begin().await
    };
    let end = async |token: Option<i64>| {
        let sql = "select finish_sync($1, $2, $3, $4, false, true, 'connected', 0, 300000, null, null, null)";
        mail.query_one(sql, &[&user.tenant, &user.user, &id, &token]).await.unwrap().get::<_, bool>(0)
    };

    let (outcome, first) = begin_as(RUNG).await;
    assert_eq!(outcome, "begun");
    for dead in 1..5_i64 {
        assert_eq!(begin_as(DEAD).await.0, "begun", "{dead}");
        assert!(!end(first).await, "who comes late has died as well");
        let stored = row(&account).await;
        assert_eq!((&stored["deaths"], &stored["last_error_code"]), (&json!(dead), &Value::Null));
        // Those that one worker had in its hands do not come to the next one together.
        let pause = stored["next_sync_at"].as_i64().unwrap() - stored["leased_until"].as_i64().unwrap();
        assert!((0..=dead * 2 * MINUTE).contains(&pause), "{dead}: {pause}");
    }
    assert_eq!(begin_as(DEAD).await.0, "givenUp");
    let seen = status(&user, &account).await;
    assert_eq!((&seen["status"], &seen["progress"]), (&json!("idle"), &Value::Null));
    let error = &seen["lastError"];
    assert_eq!((&error["code"], &error["service"]), (&json!("unavailable"), &json!("imap")), "{seen}");
    assert_eq!(error["message"], "The service could not synchronise this account. It tries again in an hour.");
    let pause = seen["nextSyncAt"].as_i64().unwrap() - now();
    assert!((47 * MINUTE..=60 * MINUTE).contains(&pause), "{pause}");

    // Who comes with an old bell fails until that is a dead letter, which puts nothing off.
    let stored = row(&account).await;
    assert_eq!(begin().await.0, "givenUp");
    let give_up = "select give_up_sync($1, $2, $3, 9999999, 'Once more.')";
    mail.execute(give_up, &[&user.tenant, &user.user, &id]).await.unwrap();
    assert_eq!(row(&account).await, stored);
    // It is tried again, for its user at once; and one more is enough.
    assert_eq!(ask(&user, &account).await.status, 202);
    assert_eq!(begin().await.0, "begun");
    assert_eq!(begin_as(DEAD).await.0, "givenUp");
    let (outcome, token) = begin_as(RUNG).await;
    assert_eq!(outcome, "begun");
    assert!(end(token).await);
    let stored = row(&account).await;
    assert_eq!((&stored["deaths"], &stored["last_error_code"]), (&json!(0), &Value::Null));
    assert_eq!(begin().await.0, "idle");

    // What its user ends, and what finds its host busy, has shown nothing.
    assert_eq!(begin_as(RUNG).await.0, "begun");
    assert_eq!(begin_as(DEAD).await.0, "begun");
    cancel(&user, &account).await;
    let (_, token) = begin_as(RUNG).await;
    let postpone = "select postpone_sync($1, $2, $3, $4, 1000)";
    mail.execute(postpone, &[&user.tenant, &user.user, &id, &token]).await.unwrap();
    let stored = row(&account).await;
    assert_eq!((&stored["deaths"], &stored["leased_until"]), (&json!(1), &Value::Null));
    // Another mailbox has killed nobody.
    let path = format!("/api/accounts/{id}");
    assert_eq!(api.put(&path, json!({"hostname": "other.example.com"})).by(&user).send().await.status, 200);
    assert_eq!(row(&account).await["deaths"], 0);
}

/// A worker has looked into the folder before the message was moved there, and its end is not the message's.
#[tokio::test]
async fn what_is_moved_during_a_turn_is_not_destroyed_at_its_end() {
    let user = User::new();
    let (account, owner) = (api().await.create(&user, json!({})).await, owner().await);
    let mail = connect(&servers().await.postgres.mail_url("app")).await;
    let folder =
        store(&owner, "email_folders", folder_row(&account, "INBOX", json!({"stored": 5, "orphans": 1}))).await;
    let message = store(&owner, "email_messages", message_row(&account, folder, json!({}))).await;
    let is_here = async || {
        let count = "select count(*) from email_messages where id = $1";
        owner.query_one(count, &[&message]).await.unwrap().get::<_, i64>(0) == 1
    };
    for (touched, stays) in [("epoch_ms()", true), ("a.leased_until - 120001", false)] {
        let (id, token) = begin(&mail, &user, &account).await;
        let touch = format!(
            "update email_folders f set touched_at = {touched} from email_accounts a where a.id = f.account_id and f.id = $1"
        );
        assert_eq!(owner.execute(&touch, &[&folder]).await.unwrap(), 1);
        let sweep = "select more, doubt from destroy_orphans($1, $2, $3, $4, $5, 60000)";
        let swept = mail.query_one(sweep, &[&user.tenant, &user.user, &id, &token, &vec![folder]]).await.unwrap();
        assert_eq!((swept.get::<_, bool>(0), swept.get::<_, bool>(1)), (false, false));
        assert_eq!(is_here().await, stays, "{touched}");
    }
}

#[tokio::test]
async fn who_asks_is_queued_and_while_it_is_so_or_runs_gets_the_same_answer() {
    let (api, user) = (api().await, User::new());
    let account = api.create(&user, json!({})).await;
    set(&account, "next_sync_at = null").await;
    assert_eq!(
        status(&user, &account).await,
        json!({"status": "idle", "state": "new", "lastError": null, "lastSyncAt": null, "nextSyncAt": null, "progress": null})
    );
    let before = now();
    let asked = ask(&user, &account).await;
    let requested_at = asked.body["requestedAt"].as_i64().unwrap();
    assert_eq!(
        (asked.status, &asked.body),
        (202, &json!({"accountId": account["id"], "status": "queued", "requestedAt": requested_at}))
    );
    assert!((before - 1000..now() + 1000).contains(&requested_at), "{asked:?}");
    let stored = row(&account).await;
    for column in ["rung_at", "sync_requested_at", "next_sync_at", "tried_at"] {
        assert_eq!(stored[column], requested_at, "{column}");
    }
    let seen = status(&user, &account).await;
    assert_eq!((&seen["status"], &seen["nextSyncAt"]), (&json!("queued"), &json!(requested_at)));
    assert_eq!(ask(&user, &account).await.body, asked.body);
    assert_eq!(row(&account).await, stored, "nothing is written the second time");

    set(&account, "rung_at = null, leased_until = epoch_ms() + 60000").await;
    assert_eq!(status(&user, &account).await["status"], "syncing");
    let shown = api.get(&format!("/api/accounts/{}", account["id"].as_str().unwrap())).by(&user).send().await;
    assert_eq!((&shown.body["isSyncing"], &shown.body["updatedAt"]), (&json!(true), &account["updatedAt"]));
    assert_eq!(ask(&user, &account).await.body, asked.body);
    // Its worker has died.
    set(&account, "leased_until = epoch_ms() - 1").await;
    let shown = api.get("/api/accounts").by(&user).send().await;
    assert_eq!(shown.body["accounts"][0]["isSyncing"], false);
    assert_eq!(status(&user, &account).await["status"], "idle");
    assert!(ask(&user, &account).await.body["requestedAt"].as_i64().unwrap() > requested_at);
}

#[tokio::test]
async fn what_runs_by_itself_is_meant_by_who_asks_then() {
    let user = User::new();
    let account = api().await.create(&user, json!({})).await;
    set(&account, "leased_until = epoch_ms() + 60000, next_sync_at = epoch_ms() + 60000").await;
    let before = row(&account).await;
    let asked = ask(&user, &account).await;
    assert_eq!(asked.status, 202);
    let after = row(&account).await;
    assert_eq!(after["sync_requested_at"], asked.body["requestedAt"]);
    for column in ["rung_at", "next_sync_at", "leased_until", "lease_token", "tried_at"] {
        assert_eq!(after[column], before[column], "{column}");
    }
    assert_eq!(ask(&user, &account).await.body, asked.body);
}

#[tokio::test]
async fn a_user_is_obeyed_whatever_plans_there_are() {
    let user = User::new();
    let account = api().await.create(&user, json!({"isSyncEnabled": false})).await;
    assert_eq!(account["nextSyncAt"], Value::Null, "nobody wants one");
    let failed = "state = 'connectError', failures = 6, next_sync_at = epoch_ms() + 3600000,
        last_error_code = 'unreachable', last_error_message = 'No connection.', last_error_service = 'imap', last_error_at = 5";
    set(&account, failed).await;
    let seen = status(&user, &account).await;
    assert_eq!((&seen["nextSyncAt"], &seen["state"]), (&Value::Null, &json!("connectError")));
    assert_eq!(
        seen["lastError"],
        json!({"code": "unreachable", "message": "No connection.", "service": "imap", "at": 5})
    );
    let asked = ask(&user, &account).await;
    assert_eq!(asked.status, 202);
    assert_eq!(status(&user, &account).await["nextSyncAt"], asked.body["requestedAt"]);
    // The schedule finds what nobody heard of. Other tests' accounts stay as they are.
    let due = "select count(*) from claim_due(1000000, 60000) where account_id = $1::text::uuid";
    let (id, mut owner) = (account["id"].as_str().unwrap(), owner().await);
    let turn = owner.transaction().await.unwrap();
    assert_eq!(turn.query_one(due, &[&id]).await.unwrap().get::<_, i64>(0), 1);
    turn.rollback().await.unwrap();
}

#[tokio::test]
async fn a_refused_login_is_tried_once_a_minute() {
    let user = User::new();
    let account = api().await.create(&user, json!({})).await;
    set(&account, "state = 'authenticationError', failures = 2, next_sync_at = null").await;
    assert_eq!(ask(&user, &account).await.status, 202);
    set(&account, "rung_at = null, sync_requested_at = null, next_sync_at = null").await;
    let before = row(&account).await;
    let refused = ask(&user, &account).await;
    refused.is_refused(429);
    assert!((1..=60).contains(&refused.header("retry-after").unwrap().parse::<u64>().unwrap()), "{refused:?}");
    assert_eq!(refused.header("ratelimit-policy"), Some(r#""default";q=1;w=60"#));
    assert_eq!(row(&account).await, before);
    // A test of the account counts as well.
    set(&account, "tried_at = epoch_ms() - 59000").await;
    ask(&user, &account).await.is_refused(429);
    set(&account, "tried_at = epoch_ms() - 60000").await;
    assert_eq!(ask(&user, &account).await.status, 202);
}

#[tokio::test]
async fn progress_counts_what_the_server_has() {
    let user = User::new();
    let account = api().await.create(&user, json!({})).await;
    let client = owner().await;
    for (path, columns) in [
        ("Done", json!({"is_complete": true, "stored": 30, "total": 30})),
        ("Done before", json!({"is_complete": true, "stored": 12, "total": 10})),
        ("Half", json!({"stored": 20, "total": 50})),
        ("Only others", json!({"is_selectable": false})),
        ("Gone", json!({"is_gone": true, "stored": 5, "total": 5})),
    ] {
        store(&client, "email_folders", folder_row(&account, path, columns)).await;
    }
    set(&account, "sync_started_at = 100, rung_at = epoch_ms()").await;
    let progress = json!({"foldersDone": 2, "foldersTotal": 3, "messagesDone": 60, "messagesTotal": 90});
    assert_eq!(status(&user, &account).await["progress"], progress);
    set(&account, "leased_until = epoch_ms() + 60000").await;
    assert_eq!(status(&user, &account).await["progress"], progress);
    set(&account, "leased_until = null, rung_at = null, sync_started_at = null, last_sync_at = 200").await;
    let seen = status(&user, &account).await;
    assert_eq!((&seen["status"], &seen["lastSyncAt"], &seen["progress"]), (&json!("idle"), &json!(200), &Value::Null));
}

#[tokio::test]
async fn ending_takes_the_lease_back_and_plans_the_next_one() {
    let user = User::new();
    let account = api().await.create(&user, json!({"syncInterval": 600})).await;
    assert_eq!(ask(&user, &account).await.status, 202);
    let mail = connect(&servers().await.postgres.mail_url("app")).await;
    let id: Uuid = account["id"].as_str().unwrap().parse().unwrap();
    let begun = "select outcome, (account).lease_token from begin_sync($1, $2, $3, 60000) limit 1";
    let begun = mail.query_one(begun, &[&user.tenant, &user.user, &id]).await.unwrap();
    let (outcome, token) = (begun.get::<_, &str>(0), begun.get::<_, i64>(1));
    assert_eq!(outcome, "begun");
    let holds = "select holds_lease($1, $2, $3, $4)";
    let holds =
        async || mail.query_one(holds, &[&user.tenant, &user.user, &id, &token]).await.unwrap().get::<_, bool>(0);
    assert!(holds().await);
    assert_eq!(status(&user, &account).await["status"], "syncing");

    cancel(&user, &account).await;
    assert!(!holds().await, "a worker's next batch finds its lease gone");
    let seen = status(&user, &account).await;
    assert_eq!((&seen["status"], &seen["progress"]), (&json!("idle"), &Value::Null));
    assert!(seen["nextSyncAt"].as_i64().unwrap() > now() + 9 * MINUTE, "{seen}");
    let stored = row(&account).await;
    for column in ["rung_at", "leased_until", "sync_requested_at", "sync_started_at"] {
        assert_eq!(stored[column], Value::Null, "{column}");
    }
    cancel(&user, &account).await;
    assert_eq!(row(&account).await, stored, "where there is nothing to end nothing is written");
    let idle = "select outcome from begin_sync($1, $2, $3, 60000)";
    assert_eq!(mail.query_one(idle, &[&user.tenant, &user.user, &id]).await.unwrap().get::<_, &str>(0), "idle");
}

#[tokio::test]
async fn ending_brings_no_try_that_the_state_forbids() {
    let user = User::new();
    let account = api().await.create(&user, json!({})).await;
    for (columns, least) in [
        ("state = 'connected', failures = 0", Some(4 * MINUTE)),
        ("state = 'authenticationError', failures = 1", Some(14 * MINUTE)),
        ("state = 'authenticationError', failures = 2", None),
        ("state = 'credentialsMissing', failures = 0", None),
    ] {
        set(&account, &format!("{columns}, tried_at = null, next_sync_at = null")).await;
        assert_eq!(ask(&user, &account).await.status, 202, "{columns}");
        cancel(&user, &account).await;
        let next = row(&account).await["next_sync_at"].as_i64();
        assert_eq!(next.is_some(), least.is_some(), "{columns}: {next:?}");
        assert!(next.zip(least).is_none_or(|(next, least)| next > now() + least), "{columns}: {next:?}");
    }
    // A plan is none of it, and no plan stays none.
    for plan in ["null", "9999999999999"] {
        set(&account, &format!("state = 'connected', next_sync_at = {plan}")).await;
        let before = row(&account).await;
        cancel(&user, &account).await;
        assert_eq!(row(&account).await, before);
    }
}

#[tokio::test]
async fn another_mailbox_or_a_delete_ends_what_runs() {
    let (api, user) = (api().await, User::new());
    let account = api.create(&user, json!({})).await;
    let path = format!("/api/accounts/{}", account["id"].as_str().unwrap());
    let busy = "leased_until = epoch_ms() + 60000, rung_at = 1, sync_requested_at = 1, sync_started_at = 1";
    set(&account, busy).await;
    api.put(&path, json!({"accountName": "Home"})).by(&user).send().await;
    assert_eq!(status(&user, &account).await["status"], "syncing", "a name is nothing to it");
    api.put(&path, json!({"hostname": "other.example.com"})).by(&user).send().await;
    assert_eq!(status(&user, &account).await["status"], "idle");
    set(&account, busy).await;
    let token = row(&account).await["lease_token"].as_i64().unwrap();
    assert_eq!(api.delete(&path).by(&user).send().await.status, 200);
    let stored = row(&account).await;
    assert_eq!((&stored["leased_until"], stored["lease_token"].as_i64()), (&Value::Null, Some(token + 1)));
}

#[tokio::test]
async fn nobody_asks_for_anothers_mail() {
    let (api, user) = (api().await, User::new());
    let account = api.create(&user, json!({})).await;
    let (path, before) = (sync_of(&account), row(&account).await);
    let folders = path.replace("/sync", "/folders");
    let requests =
        |path: &str, folders: &str| [api.request("POST", path), api.get(path), api.delete(path), api.get(folders)];
    let unknown = format!("/api/accounts/{}", Uuid::now_v7());
    for request in requests(&path, &folders) {
        request.send().await.is_refused(401);
    }
    for stranger in [user.colleague(), User { user: user.user, ..User::new() }, User::new()] {
        for request in requests(&path, &folders) {
            request.by(&stranger).send().await.is_refused(403);
        }
    }
    for request in requests(&format!("{unknown}/sync"), &format!("{unknown}/folders"))
        .into_iter()
        .chain(requests("/api/accounts/7/sync", "/api/accounts/test/folders"))
    {
        request.by(&user).send().await.is_refused(404);
    }
    assert_eq!(row(&account).await, before);
    api.delete(path.trim_end_matches("/sync")).by(&user).send().await;
    for request in requests(&path, &folders) {
        request.by(&user).send().await.is_refused(404);
    }
}

#[tokio::test]
async fn who_asks_rings_for_the_account_unless_a_worker_is_at_it() {
    let server = Emulator::start().unwrap();
    let queue = Queue {
        logical_id: "SyncQueue".to_owned(),
        visibility_timeout: Duration::from_secs(60),
        redrive: None,
        variables: vec!["SYNC_QUEUE_URL".to_owned()],
    };
    let queues = server.make(&[queue]).await.unwrap();
    let mut env = servers().await.env();
    for (name, value) in queues.env() {
        env.insert(name.clone().leak(), value.clone());
    }
    let (api, user) = (Api::start(env).await, User::new());
    let account = api.create(&user, json!({})).await;
    assert_eq!(api.request("POST", &sync_of(&account)).by(&user).send().await.status, 202);
    let [message] = &queues.receive("SyncQueue", 10, Duration::from_secs(5)).await.unwrap()[..] else {
        panic!("one message")
    };
    let body: Value = serde_json::from_str(message.body().unwrap()).unwrap();
    assert_eq!(body, json!({"tenantId": user.tenant, "userId": user.user, "accountId": account["id"]}));
    set(&account, "rung_at = null, leased_until = epoch_ms() + 60000").await;
    assert_eq!(api.request("POST", &sync_of(&account)).by(&user).send().await.status, 202);
    // The bell may have been lost.
    set(&account, "rung_at = epoch_ms(), leased_until = null").await;
    assert_eq!(api.request("POST", &sync_of(&account)).by(&user).send().await.status, 202);
    assert_eq!(queues.count("SyncQueue").await.unwrap(), 2);
}
