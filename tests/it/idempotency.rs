//! `Idempotency-Key`: a request that is sent again does nothing more, whatever became of the first.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use local::gateway::PayloadVersion;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::faults::some_request_waits_for_a_lock;
use crate::support::{Answer, Api, Request, Servers, Service, User, account, api, connect, merged, owner, servers};

const KEY: &str = "idempotency-key";

/// A key as clients make them.
fn new_key() -> String {
    Uuid::new_v4().to_string()
}

fn create(api: &Api, user: &User, key: &str, changes: Value) -> Request {
    api.post("/api/accounts", account(changes)).by(user).header(KEY, key)
}

fn is_replayed(answer: &Answer) -> bool {
    match answer.header("idempotency-replayed") {
        None => false,
        Some(value) => {
            assert_eq!(value, "true");
            true
        }
    }
}

/// Lets all that a user's keys have kept be so old, in milliseconds.
async fn age(owner: &Client, user: &User, milliseconds: i64) {
    let sql = "update email_idempotency_keys set created_at = epoch_ms() - $3 where tenant_id = $1 and user_id = $2";
    assert!(owner.execute(sql, &[&user.tenant, &user.user, &milliseconds]).await.unwrap() > 0);
}

const DAY: i64 = 24 * 60 * 60 * 1000;

#[tokio::test]
async fn the_same_request_again_gets_the_same_answer_and_does_nothing() {
    let (api, user, key) = (api().await, User::new(), new_key());
    let first = create(api, &user, &key, json!({})).send().await;
    assert_eq!((first.status, is_replayed(&first)), (201, false));
    let path = first.header("location").unwrap();
    // Names in another order and white space make no other body, and a change of the account no other answer.
    let pretty = serde_json::to_string_pretty(&account(json!({}))).unwrap();
    let pretty = || api.request("POST", "/api/accounts").body(pretty.clone()).by(&user).header(KEY, &key);
    for what_happens in ["nothing", "update", "delete"] {
        match what_happens {
            "update" => assert_eq!(api.put(path, json!({"port": 1})).by(&user).send().await.status, 200),
            "delete" => assert_eq!(api.delete(path).by(&user).send().await.status, 200),
            _ => {}
        }
        for request in [create(api, &user, &key, json!({})), pretty()] {
            let again = request.send().await;
            assert_eq!((again.status, is_replayed(&again)), (201, true), "{again:?}");
            assert_eq!((&again.body, again.header("location")), (&first.body, Some(path)));
            assert_ne!(again.request_id(), first.request_id());
        }
    }
    assert!(api.addresses(&user).await.is_empty());
    // Without a key, or with another one, it is another request.
    assert_eq!(create(api, &user, &new_key(), json!({})).send().await.status, 201);
    api.post("/api/accounts", account(json!({}))).by(&user).send().await.is_refused(409);
}

#[tokio::test]
async fn another_body_under_the_same_key_is_refused_also_when_only_a_password_differs() {
    let (api, user, key) = (api().await, User::new(), new_key());
    assert_eq!(create(api, &user, &key, json!({"smtpPassword": "a"})).send().await.status, 201);
    for changes in [
        json!({}),
        json!({"smtpPassword": "b"}),
        json!({"smtpPassword": "a", "password": "correct horse battery stable"}),
        json!({"smtpPassword": "a", "emailAddress": "other@example.com"}),
        json!({"smtpPassword": "a", "unknown": 1}),
    ] {
        let answer = create(api, &user, &key, changes).send().await;
        answer.is_refused(422);
        assert!(!is_replayed(&answer));
    }
    assert!(is_replayed(&create(api, &user, &key, json!({"smtpPassword": "a"})).send().await), "still kept");
    assert_eq!(api.addresses(&user).await.len(), 1);
}

#[tokio::test]
async fn a_conflict_is_kept_and_what_was_a_400_may_be_corrected() {
    let mut env = servers().await.env();
    env.insert("ACCOUNTS_PER_USER", "1".to_owned());
    let (api, user) = (Api::start(env).await, User::new());
    let created = api.create(&user, json!({})).await;
    let path = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let kept = [(new_key(), json!({})), (new_key(), json!({"emailAddress": "other@example.com"}))];
    let mut messages = Vec::new();
    for (key, changes) in &kept {
        let first = create(&api, &user, key, changes.clone()).send().await;
        first.is_refused(409);
        assert!(!is_replayed(&first));
        messages.push(first.body["message"].clone());
    }
    assert_ne!(messages[0], messages[1]);
    assert_eq!(api.delete(&path).by(&user).send().await.status, 200);
    for ((key, changes), message) in kept.iter().zip(messages) {
        let again = create(&api, &user, key, changes.clone()).send().await;
        again.is_refused(409);
        assert_eq!((is_replayed(&again), &again.body["message"]), (true, &message));
    }

    let key = new_key();
    create(&api, &user, &key, json!({"port": 0})).send().await.is_refused(400);
    let corrected = create(&api, &user, &key, json!({})).send().await;
    assert_eq!((corrected.status, is_replayed(&corrected)), (201, false));
}

#[tokio::test]
async fn what_is_no_key_is_a_400() {
    let (api, user) = (api().await, User::new());
    for bad in ["", "two words", &"k".repeat(256)] {
        let answer = create(api, &user, bad, json!({})).send().await;
        answer.is_refused(400);
        assert_eq!(answer.faults(), ["Idempotency-Key"]);
    }
    assert_eq!(create(api, &user, &"k".repeat(255), json!({})).send().await.status, 201);
}

#[tokio::test]
async fn of_twins_at_once_one_does_it_and_the_others_get_its_answer() {
    let api = Api::start_as(servers().await.env(), PayloadVersion::V2, 4).await;
    for _ in 0..5 {
        let (user, key) = (User::new(), new_key());
        let answers = join_all((0..8).map(|_| create(&api, &user, &key, json!({})).send())).await;
        assert_eq!(answers.iter().filter(|answer| !is_replayed(answer)).count(), 1, "{answers:?}");
        for answer in &answers {
            assert_eq!((answer.status, &answer.body), (201, &answers[0].body));
        }
        assert_eq!(api.addresses(&user).await.len(), 1);

        // Of bodies that differ, one.
        let (user, key) = (User::new(), new_key());
        let different = (0..8).map(|n| json!({"emailAddress": format!("jane{n}@example.com")}));
        let answers = join_all(different.map(|changes| create(&api, &user, &key, changes).send())).await;
        let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [[201].as_slice(), &[422; 7]].concat());
        assert_eq!(api.addresses(&user).await.len(), 1);
    }
}

#[tokio::test]
async fn while_the_first_does_not_end_the_second_is_a_409_that_is_not_kept() {
    let (api, user, key) = (api().await, User::new(), new_key());
    let first = create(api, &user, &key, json!({})).send().await;
    // As a transaction that has claimed the key and goes on.
    let other = owner().await;
    let hold = "update email_idempotency_keys set created_at = created_at where tenant_id = $1";
    other.batch_execute("begin").await.unwrap();
    assert_eq!(other.execute(hold, &[&user.tenant]).await.unwrap(), 1);
    let running = create(api, &user, &key, json!({})).send().await;
    running.is_refused(409);
    assert!(!is_replayed(&running) && running.body["message"].as_str().unwrap().contains("being worked on"));
    other.batch_execute("rollback").await.unwrap();
    let again = create(api, &user, &key, json!({})).send().await;
    assert_eq!((is_replayed(&again), again.body), (true, first.body));
}

#[tokio::test]
async fn a_crash_before_the_commit_leaves_nothing_and_one_after_it_the_answer() {
    for is_committed in [false, true] {
        let servers = Servers::start().await;
        let api = Api::start_as(servers.env(), PayloadVersion::V2, 1).await;
        let (user, key) = (User::new(), new_key());
        api.create(&user, json!({"emailAddress": "first@example.com"})).await;
        let blocker = connect(&servers.postgres.owner_url("app")).await;
        // The key is claimed by then, and nothing else is done.
        blocker.batch_execute("begin; lock table email_accounts in share mode").await.unwrap();
        let url = format!("{}/api/accounts", api.url());
        let request = reqwest::Client::new().post(url).bearer_auth(user.token()).header(KEY, &key);
        let request = request.json(&account(json!({}))).send();
        let killer = async {
            some_request_waits_for_a_lock(&servers).await;
            api.signal("create-account", "KILL");
        };
        let (answer, ()) = tokio::join!(request, killer);
        assert_eq!(answer.unwrap().status(), 500, "the gateway's own words: no function was left to answer");
        if !is_committed {
            let end = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock'";
            blocker.query(end, &[]).await.unwrap();
        }
        blocker.batch_execute("rollback").await.unwrap();
        let busy = "select count(*) from pg_stat_activity where usename = 'email_service_app' and state = 'active'";
        while blocker.query_one(busy, &[]).await.unwrap().get::<_, i64>(0) > 0 {}
        let again = create(&api, &user, &key, json!({})).send().await;
        assert_eq!((again.status, is_replayed(&again)), (201, is_committed));
        assert_eq!(api.addresses(&user).await, ["jane@example.com", "first@example.com"]);
        let count = "select count(*) from email_idempotency_keys where outcome = 'created'";
        assert_eq!(blocker.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 1);
    }
}

#[tokio::test]
async fn a_key_is_forgotten_after_24_hours() {
    let (api, user, key) = (api().await, User::new(), new_key());
    let owner = owner().await;
    let other = json!({"emailAddress": "other@example.com"});
    assert_eq!(create(api, &user, &key, json!({})).send().await.status, 201);
    age(&owner, &user, DAY - 60_000).await;
    create(api, &user, &key, other.clone()).send().await.is_refused(422);
    age(&owner, &user, DAY + 1).await;
    let answer = create(api, &user, &key, other.clone()).send().await;
    assert_eq!((answer.status, is_replayed(&answer)), (201, false));
    assert!(is_replayed(&create(api, &user, &key, other).send().await), "from then on it is kept again");
}

#[tokio::test]
async fn keys_that_are_too_old_are_purged_and_no_others() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let [old, young] = [User::new(), User::new()];
    for user in [&old, &young] {
        for n in 0..3 {
            let changes = json!({"emailAddress": format!("jane{n}@example.com")});
            assert_eq!(create(&service.api, user, &new_key(), changes).send().await.status, 201);
        }
    }
    age(&service.owner, &old, DAY + 1).await;
    age(&service.owner, &young, DAY - 60_000).await;
    assert_eq!(service.tick().await["purgedRows"], 3);
    let left = "select count(*), count(*) filter (where user_id = $1) from email_idempotency_keys";
    let row = service.owner.query_one(left, &[&young.user]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (3, 3));
    assert_eq!(service.tick().await["purgedRows"], 0);
}

#[tokio::test]
async fn keys_are_each_users_own() {
    let (api, user, key) = (api().await, User::new(), new_key());
    let strangers = [user.colleague(), User { user: user.user, ..User::new() }, User::new()];
    let first = create(api, &user, &key, json!({})).send().await;
    for stranger in strangers {
        for changes in [json!({"emailAddress": "other@example.com"}), json!({"emailAddress": "jane@example.com"})] {
            let answer = create(api, &stranger, &key, changes.clone()).send().await;
            match changes["emailAddress"].as_str() {
                Some("other@example.com") => assert_eq!((answer.status, is_replayed(&answer)), (201, false)),
                _ => answer.is_refused(422),
            }
            assert_ne!(answer.body["id"], first.body["id"]);
        }
    }
    assert_eq!(create(api, &user, &key, json!({})).send().await.body, first.body);
}

#[tokio::test]
async fn nothing_that_is_kept_has_the_key_or_a_password_in_it() {
    let (api, user, key) = (api().await, User::new(), new_key());
    let body = json!({"smtpHostname": "smtp.example.com", "smtpPassword": "another horse"});
    assert_eq!(create(api, &user, &key, body.clone()).send().await.status, 201);
    let sql = "select k::text, encode(key_hash, 'hex'), encode(fingerprint, 'hex') from email_idempotency_keys k where user_id = $1";
    let row = owner().await.query_one(sql, &[&user.user]).await.unwrap();
    let text: String = row.get(0);
    for secret in [&*key, "correct horse", "another horse"] {
        assert!(!text.contains(secret), "{secret}");
    }
    // Nor is it a hash that somebody without the key could make of the body.
    let whole = merged(account(json!({})), body).to_string();
    let sql = "select encode(sha256(guess::bytea), 'hex') from unnest($1::text[]) guess";
    let guesses = [whole, "correct horse battery staple".to_owned(), "another horse".to_owned()];
    for guess in owner().await.query(sql, &[&guesses.as_slice()]).await.unwrap() {
        assert!([1, 2].iter().all(|column| row.get::<_, &str>(*column) != guess.get::<_, &str>(0)));
    }
}
