//! What breaks underneath, and what comes of it. `docs/SECURITY.md` has the matrix of faults and tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use local::gateway::PayloadVersion;
use serde_json::{Value, json};
use shared::db::Db;
use shared::secrets::{SecretSource, SecretStore, SecretText, Secrets, Transport};
use tokio::time::timeout;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::proxy::{Fate, Proxy};
use crate::support::{
    Api, READER_DATABASE_URL, Servers, User, account, connect, lasting, logins, new_database, servers,
};

#[tokio::test]
async fn a_dead_postgresql_is_a_plain_500_and_after_its_return_all_is_well_without_a_restart() {
    let mut servers = Servers::start().await;
    let api = servers.api().await;
    let user = User::new();
    let created = api.create(&user, json!({})).await;
    let one = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let pids = api.gateway.pids("get-account").unwrap();
    for crash in [true, false] {
        if crash {
            servers.postgres.kill().unwrap();
        } else {
            servers.postgres.stop().unwrap();
        }
        for request in [
            api.get("/api/accounts"),
            api.get(&one),
            api.put(&one, json!({"port": 1})),
            api.delete(&one),
            api.post("/api/accounts", account(json!({}))),
        ] {
            let answer = request.by(&user).send().await;
            answer.is_refused(500);
            assert!(!answer.body.to_string().to_lowercase().contains("postgres"));
            assert!(
                api.log_of(&answer).await["error"].as_str().unwrap().contains("no connection to PostgreSQL"),
                "{}",
                api.log()
            );
        }
        servers.postgres.start_again().unwrap();
        assert_eq!(api.get(&one).by(&user).send().await.body, created, "nothing was lost, nothing changed");
        assert_eq!(api.put(&one, json!({})).by(&user).send().await.status, 200);
    }
    assert_eq!(api.gateway.pids("get-account").unwrap()[..pids.len()], pids);
}

#[tokio::test]
async fn a_function_starts_while_postgresql_is_away_and_works_once_it_is_there() {
    let mut servers = Servers::start().await;
    servers.postgres.stop().unwrap();
    let api = servers.api().await;
    api.get("/api/accounts").by(&User::new()).send().await.is_refused(500);
    servers.postgres.start_again().unwrap();
    assert_eq!(api.get("/api/accounts").by(&User::new()).send().await.status, 200);
}

#[tokio::test]
async fn a_slow_statement_ends_before_the_function_does() {
    let servers = Servers::start().await;
    let api = servers.api().await;
    let user = User::new();
    let created = api.create(&user, json!({})).await;
    let one = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let blocker = connect(&servers.postgres.owner_url("app")).await;
    blocker.batch_execute("begin; lock table email_accounts in access exclusive mode").await.unwrap();
    let answer = api.put(&one, json!({"port": 1})).by(&user).send().await;
    answer.is_refused(500);
    assert!(api.log_of(&answer).await["error"].as_str().unwrap().contains("timeout"), "{}", api.log());
    blocker.batch_execute("rollback").await.unwrap();
    assert_eq!(api.get(&one).by(&user).send().await.body, created);
}

#[tokio::test]
async fn a_postgresql_that_never_answers_is_given_up_on() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let servers = crate::support::servers().await;
    let mut env = servers.env();
    let hung = servers
        .postgres
        .reader_url("app")
        .replace(&servers.postgres.port().to_string(), &listener.local_addr().unwrap().port().to_string());
    env.insert(READER_DATABASE_URL, hung);
    let api = Api::start(env).await;
    let answer = api.get("/api/accounts").by(&User::new()).send().await;
    answer.is_refused(500);
    assert!(api.log_of(&answer).await["durationMs"].as_f64().unwrap() < 9_000.0, "{}", api.log());
}

#[tokio::test]
async fn a_function_killed_in_the_middle_leaves_nothing_half_written() {
    let servers = Servers::start().await;
    let api = Api::start_as(servers.env(), PayloadVersion::V2, 1).await;
    let user = User::new();
    api.create(&user, json!({"emailAddress": "first@example.com"})).await;
    let blocker = connect(&servers.postgres.owner_url("app")).await;
    blocker.batch_execute("begin; lock table email_accounts in share mode").await.unwrap();
    let url = format!("{}/api/accounts", api.url());
    let request = reqwest::Client::new().post(url).bearer_auth(user.token()).json(&account(json!({}))).send();
    let killer = async {
        some_request_waits_for_a_lock(&servers).await;
        api.signal("create-account", "KILL");
    };
    let (answer, ()) = tokio::join!(request, killer);
    assert_eq!(answer.unwrap().status(), 500, "the gateway's own words: no function was left to answer");
    blocker.batch_execute("rollback").await.unwrap();
    // The statement that lost its client either happened as a whole or not at all.
    let waiting = "select count(*) from pg_stat_activity where usename = 'email_service_app' and state = 'active'";
    while blocker.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0 {}
    let halves = "select count(*) from email_credentials c where not exists (select from email_accounts a where a.credential_id = c.id)";
    assert_eq!(blocker.query_one(halves, &[]).await.unwrap().get::<_, i64>(0), 0);
    let answer =
        api.post("/api/accounts", account(json!({"emailAddress": "third@example.com"}))).by(&user).send().await;
    assert_eq!(answer.status, 201, "another process has taken over");
}

/// Watches from a connection of its own: within a transaction, PostgreSQL shows the activity of its first look.
pub async fn some_request_waits_for_a_lock(servers: &Servers) {
    let watcher = connect(&servers.postgres.owner_url("app")).await;
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
    while watcher.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
}

/// Cuts the functions' connections, so that they connect anew.
pub async fn cut_connections(owner: &Client) {
    let cut = "select pid, pg_terminate_backend(pid) from pg_stat_activity where usename ~ '^email_service_'";
    let told: Vec<i32> = owner.query(cut, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    // They take a moment, in which functions that are asked something connect anew.
    let left = "select count(*) from pg_stat_activity where pid = any ($1)";
    while owner.query_one(left, &[&told]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn without_a_connection_slot_requests_fail_plainly_and_recover() {
    let servers = Servers::start().await;
    let (api, user) = (servers.api().await, User::new());
    let created = api.create(&user, json!({})).await;
    let one = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let owner = connect(&servers.postgres.owner_url("postgres")).await;
    for (close, open) in [
        (
            "alter role email_service_app connection limit 0; alter role email_service_reader connection limit 0",
            "alter role email_service_app connection limit -1; alter role email_service_reader connection limit -1",
        ),
        ("alter database app allow_connections false", "alter database app allow_connections true"),
    ] {
        owner.batch_execute(close).await.unwrap();
        cut_connections(&owner).await;
        for request in [api.get(&one), api.put(&one, json!({"port": 1})), api.post("/api/accounts", account(json!({})))]
        {
            request.by(&user).send().await.is_refused(500);
        }
        owner.batch_execute(open).await.unwrap();
        assert_eq!(api.get(&one).by(&user).send().await.body, created, "{close}");
    }
}

#[tokio::test]
async fn of_a_read_only_database_reads_go_on_and_writes_fail_plainly() {
    let servers = Servers::start().await;
    let (api, user) = (servers.api().await, User::new());
    let created = api.create(&user, json!({})).await;
    let one = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let owner = connect(&servers.postgres.owner_url("app")).await;
    owner.batch_execute("alter database app set default_transaction_read_only = on").await.unwrap();
    cut_connections(&owner).await;
    assert_eq!(api.get(&one).by(&user).send().await.body, created);
    assert_eq!(api.addresses(&user).await.len(), 1);
    for request in [
        api.put(&one, json!({"port": 1})),
        api.delete(&one),
        api.post("/api/accounts", account(json!({"emailAddress": "2@example.com"}))),
    ] {
        let answer = request.by(&user).send().await;
        answer.is_refused(500);
        assert!(api.log_of(&answer).await["error"].as_str().unwrap().contains("read-only"), "{}", api.log());
    }
    // The host's name leads to the writer again: nobody holds on to where it led to before.
    owner.batch_execute("alter database app reset default_transaction_read_only").await.unwrap();
    assert_eq!(api.get(&one).by(&user).send().await.body, created);
    assert_eq!(api.put(&one, json!({"port": 1})).by(&user).send().await.status, 200);
    assert_eq!(api.delete(&one).by(&user).send().await.status, 200);
}

#[tokio::test]
async fn a_postgresql_that_dies_during_a_request_leaves_the_change_undone_as_a_whole() {
    let mut servers = Servers::start().await;
    let api = Api::start_as(servers.env(), PayloadVersion::V2, 1).await;
    let user = User::new();
    let created = api.create(&user, json!({})).await;
    let one = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let owner = connect(&servers.postgres.owner_url("app")).await;
    let hash = "select password_hash from email_credentials";
    let before: String = owner.query_one(hash, &[]).await.unwrap().get(0);
    owner.batch_execute("begin; lock table email_credentials in share mode").await.unwrap();
    let request = api.put(&one, json!({"accountName": "New", "password": "new password"})).by(&user).send();
    let killer = async {
        // The account is written by then, and the credential waits for the lock.
        some_request_waits_for_a_lock(&servers).await;
        servers.postgres.kill().unwrap();
    };
    let (answer, ()) = tokio::join!(request, killer);
    answer.is_refused(500);
    servers.postgres.start_again().unwrap();
    assert_eq!(api.get(&one).by(&user).send().await.body, created);
    let owner = connect(&servers.postgres.owner_url("app")).await;
    assert_eq!(owner.query_one(hash, &[]).await.unwrap().get::<_, String>(0), before);
}

#[tokio::test]
async fn a_full_redis_means_counting_in_the_process() {
    let servers = Servers::start().await;
    let (api, user) = (servers.api().await, User::new());
    let client = redis::Client::open(servers.redis.url()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).query_async(&mut redis).await.unwrap();
    for _ in 0..5 {
        let answer = api.get("/api/accounts").by(&user).send().await;
        assert_eq!(answer.status, 200);
        assert_eq!(api.log_of(&answer).await["rateLimitFallback"], json!(true));
    }
}

/// The functions' environment, with PostgreSQL behind a proxy.
async fn behind_a_proxy(servers: &Servers) -> (Proxy, BTreeMap<&'static str, String>) {
    let port = servers.postgres.port();
    let proxy = Proxy::to_port(port).await;
    let mut env = servers.env();
    env.insert("DATABASE_URL", proxy.url(&servers.postgres.app_url("app"), port));
    env.insert(READER_DATABASE_URL, proxy.url(&servers.postgres.reader_url("app"), port));
    (proxy, env)
}

#[tokio::test]
async fn a_read_is_repeated_when_its_connection_turns_out_forgotten() {
    let (proxy, env) = behind_a_proxy(servers().await).await;
    let (api, user) = (Api::start_as(env, PayloadVersion::V2, 1).await, User::new());
    let created = api.create(&user, json!({})).await;
    let one = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    for path in [one.as_str(), "/api/accounts", "/health/ready"] {
        assert_eq!(api.get(path).by(&user).send().await.status, 200);
        proxy.strike(Fate::ResetOnUse).await;
        assert_eq!(api.get(path).by(&user).send().await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_write_that_may_have_been_sent_is_not_repeated() {
    let (proxy, env) = behind_a_proxy(servers().await).await;
    let (api, user) = (Api::start_as(env, PayloadVersion::V2, 1).await, User::new());
    let created = api.create(&user, json!({})).await;
    let one = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let unknown = format!("/api/accounts/{}", Uuid::now_v7());
    let second = account(json!({"emailAddress": "2@example.com"}));
    for (connecting, request) in [
        (api.post("/api/accounts", account(json!({}))), api.post("/api/accounts", second)),
        (api.put(&unknown, json!({"port": 1})), api.put(&one, json!({"port": 1}))),
        (api.delete(&unknown), api.delete(&one)),
    ] {
        assert!([404, 409].contains(&connecting.by(&user).send().await.status));
        proxy.strike(Fate::ResetOnUse).await;
        let answer = request.by(&user).send().await;
        answer.is_refused(500);
        assert!(api.log_of(&answer).await["error"].as_str().unwrap().contains("connection closed"), "{}", api.log());
    }
    let listed = api.get("/api/accounts").by(&user).send().await;
    assert_eq!(listed.body["accounts"], json!([created]));
}

#[tokio::test]
async fn a_read_is_repeated_when_its_server_process_is_told_to_end() {
    let servers = Servers::start().await;
    let (api, user) = (Api::start_as(servers.env(), PayloadVersion::V2, 1).await, User::new());
    let created = api.create(&user, json!({})).await;
    let one = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    assert_eq!(api.get(&one).by(&user).send().await.body, created);
    let blocker = connect(&servers.postgres.owner_url("app")).await;
    blocker.batch_execute("begin; lock table email_accounts in access exclusive mode").await.unwrap();
    let request = api.get(&one).by(&user).send();
    let restart = async {
        some_request_waits_for_a_lock(&servers).await;
        let end = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock'";
        blocker.batch_execute(&format!("{end}; rollback")).await.unwrap();
    };
    let (answer, ()) = tokio::join!(request, restart);
    assert_eq!((answer.status, answer.body), (200, created), "{}", api.log());
}

#[tokio::test]
async fn a_connection_that_was_closed_while_the_function_was_frozen_fails_no_write() {
    let (proxy, mut env) = behind_a_proxy(servers().await).await;
    // Without Redis to wait for, nothing comes between the thaw and the statement.
    env.insert("RATE_LIMIT_PER_MINUTE", "0".to_owned());
    let (api, user) = (Api::start_as(env, PayloadVersion::V2, 1).await, User::new());
    for n in 0..10 {
        api.create(&user, json!({"emailAddress": format!("{n}@example.com")})).await;
        api.signal("create-account", "STOP");
        proxy.strike(Fate::Reset).await;
        let frozen = api.post("/api/accounts", account(json!({"emailAddress": format!("{n}b@example.com")})));
        let thaw = async {
            // Until the gateway has handed the event over.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            api.signal("create-account", "CONT");
        };
        let (answer, ()) = tokio::join!(frozen.by(&user).send(), thaw);
        assert_eq!(answer.status, 201, "{}", api.log());
    }
}

/// The secrets of an environment.
fn store(env: &BTreeMap<&str, String>) -> Arc<SecretStore> {
    let text = |name| SecretText::new(env[name].clone());
    let secrets =
        Secrets::new(&text("DATABASE_URL"), text("REDIS_URL"), [Some(text("JWT_SECRET_KEY")), None], Transport::Any)
            .unwrap();
    Arc::new(SecretStore::new(SecretSource::Environment(Box::new(secrets))))
}

#[tokio::test]
async fn connections_are_forgotten_together() {
    let (proxy, env) = behind_a_proxy(servers().await).await;
    let db = Db::new(store(&env), 4, shared::MAX_IDLE).await.unwrap();
    let at_once = || join_all((0..4).map(|_| db.schema_version()));
    assert!(at_once().await.iter().all(Result::is_ok));
    proxy.strike(Fate::ResetOnUse).await;
    assert_eq!(db.schema_version().await.unwrap(), shared::db::SCHEMA_VERSION);
    assert!(at_once().await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_connection_that_was_unused_for_long_is_replaced_before_it_is_lent() {
    let (proxy, env) = behind_a_proxy(servers().await).await;
    let store = store(&env);
    let used = Db::new(store.clone(), 1, shared::MAX_IDLE).await.unwrap();
    let unused = Db::new(store, 1, Duration::ZERO).await.unwrap();
    for db in [&used, &unused] {
        db.schema_version().await.unwrap();
    }
    proxy.strike(Fate::Silence).await;
    let (used, unused) = tokio::join!(used.schema_version(), unused.schema_version());
    assert_eq!(unused.unwrap(), shared::db::SCHEMA_VERSION);
    used.expect_err("within the time, the connection is trusted");
}

#[tokio::test]
async fn a_connection_is_not_lent_while_nobody_knows_its_role() {
    let database = new_database().await;
    let postgres = &servers().await.postgres;
    let owner = connect(&postgres.owner_url(&database)).await;
    // It is a bad one, and that takes long to tell.
    owner
        .batch_execute(
            "create or replace function role_powers() returns table (role text, is_bound boolean, reads_secrets boolean)
             language plpgsql stable rows 1 as $$ begin
                 perform pg_advisory_xact_lock_shared(1);
                 return query select 'nobody', false, false;
             end $$;
             select pg_advisory_lock(1)",
        )
        .await
        .unwrap();
    let mut env = servers().await.env();
    env.extend(logins(postgres, &database));
    let db = Db::new(store(&env), 1, shared::MAX_IDLE).await.unwrap();
    let checked = db.warm_up().await;
    timeout(Duration::from_millis(100), checked).await.expect_err("nobody can know yet");
    owner.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
    let refused = db.schema_version().await.unwrap_err();
    assert!(format!("{refused:?}").contains("row-level security does not bind nobody"), "{refused:?}");
}

/// What a client knows of its accounts.
#[derive(Default)]
struct Model {
    /// Acknowledged accounts by address, each with its port as last acknowledged and all that may have happened since.
    known: BTreeMap<String, (String, Vec<i64>)>,
    /// Addresses of creates that got no good answer: each may be there or not, but not in part.
    unsure: Vec<String>,
}

/// One client's work until it is told to stop: creates, updates and lists, checked against its model.
async fn work(
    http: reqwest::Client,
    url: String,
    user: User,
    stop: &AtomicBool,
    answered: &Mutex<BTreeMap<u16, u32>>,
) -> Model {
    let mut model = Model::default();
    let send = |method: &str, path: String, body: Value| {
        let request = http.request(method.parse().unwrap(), format!("{url}{path}")).bearer_auth(user.token());
        async move {
            let response = if body.is_null() { request.send().await } else { request.json(&body).send().await }.ok()?;
            let status = response.status().as_u16();
            *answered.lock().unwrap().entry(status).or_default() += 1;
            Some((status, response.json::<Value>().await.ok()?))
        }
    };
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let address = format!("{n}@{}.example.com", user.user);
        match send("POST", "/api/accounts".into(), account(json!({"emailAddress": address, "port": 1}))).await {
            Some((201, created)) => {
                let id = created["id"].as_str().unwrap().to_owned();
                assert_eq!((&created["userId"], &created["tenantId"]), (&json!(user.user), &json!(user.tenant)));
                let port = 2 + n % 1000;
                let ports =
                    match send("PUT", format!("/api/accounts/{id}"), json!({"port": port, "password": "new"})).await {
                        Some((200, updated)) => {
                            assert_eq!(updated["port"], port);
                            vec![port]
                        }
                        _ => vec![1, port],
                    };
                model.known.insert(address, (id, ports));
            }
            Some((500, _)) | None => model.unsure.push(address),
            Some(other) => panic!("an answer that no fault explains: {other:?}"),
        }
        if let Some((200, listed)) = send("GET", "/api/accounts?limit=1000".into(), Value::Null).await {
            check(&model, &user, &listed);
        }
    }
    model
}

/// No acknowledged write is lost, none that was refused is half there, and nobody else's account is seen.
fn check(model: &Model, user: &User, listed: &Value) {
    let accounts = listed["accounts"].as_array().unwrap();
    for account in accounts {
        assert_eq!(
            (&account["tenantId"], &account["userId"]),
            (&json!(user.tenant), &json!(user.user)),
            "a foreign account"
        );
        let address = account["emailAddress"].as_str().unwrap();
        match model.known.get(address) {
            Some((id, ports)) => {
                assert!(account["id"] == json!(id) && ports.contains(&account["port"].as_i64().unwrap()), "{account}")
            }
            None => assert!(model.unsure.iter().any(|unsure| unsure == address) && account["port"] == 1, "{account}"),
        }
    }
    for address in model.known.keys() {
        assert!(accounts.iter().any(|account| account["emailAddress"] == json!(address)), "lost: {address}");
    }
}

#[tokio::test]
async fn while_faults_strike_two_tenants_lose_nothing_and_see_nothing_of_each_other() {
    static STOP: AtomicBool = AtomicBool::new(false);
    static ANSWERED: Mutex<BTreeMap<u16, u32>> = Mutex::new(BTreeMap::new());
    let mut servers = Servers::start().await;
    // One process per function: both tenants share its one connection.
    let api = Api::start_as(servers.env(), PayloadVersion::V2, 1).await;
    let users = [User::new(), User::new()];
    let mut clients = Vec::new();
    for user in users {
        let url = api.url().to_owned();
        clients.push(tokio::spawn(
            async move { lasting(work(reqwest::Client::new(), url, user, &STOP, &ANSWERED)).await },
        ));
    }
    // A fault, then work in peace until some more requests went well, and again.
    let good =
        || ANSWERED.lock().unwrap().iter().filter(|(status, _)| **status < 300).map(|(_, count)| *count).sum::<u32>();
    let peace = async || {
        let goal = good() + 30;
        while good() < goal {
            tokio::task::yield_now().await;
            assert!(!clients.iter().any(tokio::task::JoinHandle::is_finished), "a client gave up");
        }
    };
    peace().await;
    for round in 0..3 {
        servers.postgres.kill().unwrap();
        servers.postgres.start_again().unwrap();
        peace().await;
        servers.redis.kill().unwrap();
        peace().await;
        servers.redis.start_again().unwrap();
        let owner = connect(&servers.postgres.owner_url("app")).await;
        cut_connections(&owner).await;
        peace().await;
        let function = ["create-account", "update-account", "list-accounts"][round];
        api.signal(function, "KILL");
        peace().await;
        servers.postgres.stop().unwrap();
        servers.postgres.start_again().unwrap();
        peace().await;
    }
    STOP.store(true, Ordering::Relaxed);
    for (user, client) in users.iter().zip(clients) {
        let model = client.await.unwrap();
        assert!(!model.known.is_empty());
        check(&model, user, &api.get("/api/accounts?limit=1000").by(user).send().await.body);
    }
    let owner = connect(&servers.postgres.owner_url("app")).await;
    let halves = "select count(*) from email_credentials c full join email_accounts a on a.credential_id = c.id
                  where a.id is null or c.id is null or a.tenant_id <> c.tenant_id or a.user_id <> c.user_id";
    assert_eq!(owner.query_one(halves, &[]).await.unwrap().get::<_, i64>(0), 0);
    let strangers = "select count(*) from email_accounts where tenant_id <> all ($1)";
    let tenants: Vec<Uuid> = users.iter().map(|user| user.tenant).collect();
    assert_eq!(owner.query_one(strangers, &[&tenants]).await.unwrap().get::<_, i64>(0), 0);
}
