//! Migrations, round trips, plans, poolers, TLS.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use local::gateway::PayloadVersion;
use local::services::{PgBouncer, free_port};
use serde_json::json;
use shared::change::Place;
use shared::identity::{Scope, TenantId, UserId};
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::proxy::Proxy;
use crate::support::{
    Answer, Api, READER_DATABASE_URL, Servers, User, account, api, connect, folder_row, message_row, new_database,
    owner, servers, store,
};

/// A new account, of a tenant and a user, with an id.
const INSERT_ACCOUNT: &str = "select from insert_account($1, $2, $3, 'x', 'x@example.com', 'imap', 'x', 1, 'tls', 'x', true, 300, $3, 'sha512', repeat('0', 128), repeat('0', 64))";

#[tokio::test]
async fn migrations_run_twice_and_two_at_once_without_harm() {
    let postgres = &servers().await.postgres;
    postgres.create_database("twice").await.unwrap();
    let (owner, roles) = (postgres.owner_url("twice"), postgres.role_urls("twice"));
    let applied = join_all((0..4).map(|_| migrate::apply(&owner, &roles))).await;
    let mut counts: Vec<_> = applied.into_iter().map(|names| names.unwrap().len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 0, migrate::runner().get_migrations().len()]);
    assert!(migrate::apply(&owner, &[]).await.unwrap().is_empty());
    for url in &roles {
        connect(url).await;
    }
}

#[tokio::test]
async fn databases_of_one_server_are_migrated_at_once_though_they_share_the_roles() {
    let postgres = &servers().await.postgres;
    let migrations = (0..6).map(|n| async move {
        let name = format!("at_once_{n}");
        postgres.create_database(&name).await.unwrap();
        migrate::apply(&postgres.owner_url(&name), &postgres.role_urls(&name)).await.unwrap().len()
    });
    assert_eq!(join_all(migrations).await, [migrate::runner().get_migrations().len(); 6]);
}

#[tokio::test]
async fn a_migration_waits_for_another_for_a_time_and_says_who_it_is() {
    let postgres = &servers().await.postgres;
    postgres.create_database("locked").await.unwrap();
    postgres.create_database("locked_as_well").await.unwrap();
    // Another database's migration is in nobody's way, and must not be ended for this one.
    let other = connect(&postgres.owner_url("locked_as_well")).await;
    migrate::wait_for_others(&other, Duration::ZERO).await.unwrap();
    let [first, second] = [connect(&postgres.owner_url("locked")).await, connect(&postgres.owner_url("locked")).await];
    migrate::wait_for_others(&first, Duration::ZERO).await.unwrap();
    let process: i32 = first.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let error = migrate::wait_for_others(&second, Duration::ZERO).await.unwrap_err().to_string();
    // PostgreSQL may still say that it is active, for the moment after its answer.
    let says = |state: &str| error.contains(&format!("process {process}, {state} since"));
    assert!(says("idle") || says("active"), "{error}");
    drop(first);
    migrate::wait_for_others(&second, Duration::from_secs(20)).await.unwrap();
}

#[tokio::test]
async fn a_failed_migration_leaves_nothing_behind_and_says_why() {
    let postgres = &servers().await.postgres;
    postgres.create_database("blocked").await.unwrap();
    let url = postgres.owner_url("blocked");
    let client = connect(&url).await;
    client.batch_execute("create table email_accounts (id int)").await.unwrap();
    let error = format!("{:#}", migrate::apply(&url, &[]).await.unwrap_err());
    assert!(error.contains("V2__accounts") || error.contains("already exists"), "{error}");
    let left: i64 = client
        .query_one("select count(*) from pg_class where relname = 'email_credentials'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(left, 0, "the migration was rolled back as a whole");
    client.batch_execute("drop table email_accounts").await.unwrap();
    let applied = migrate::apply(&url, &[]).await.unwrap();
    assert_eq!(applied.first().map(String::as_str), Some("V2__accounts"), "the next run takes up where it stopped");
}

#[tokio::test]
async fn an_edited_migration_is_refused() {
    let database = new_database().await;
    let url = servers().await.postgres.owner_url(&database);
    connect(&url).await.batch_execute("update schema_migrations set checksum = '1' where version = 2").await.unwrap();
    assert!(migrate::apply(&url, &[]).await.is_err());
}

/// Managed PostgreSQL gives no superuser: the owner of a database with CREATEROLE must do.
#[tokio::test]
async fn migrations_need_no_superuser() {
    let server = local::services::Postgres::start().unwrap();
    let admin = connect(&server.owner_url("postgres")).await;
    admin.batch_execute("create role master login createrole createdb password 'master'; ").await.unwrap();
    admin.batch_execute("create database app owner master").await.unwrap();
    let url = format!("postgres://master:master@127.0.0.1:{}/app", server.port());
    assert_eq!(
        migrate::apply(&url, &server.role_urls("app")).await.unwrap().len(),
        migrate::runner().get_migrations().len()
    );
    let user = User::new();
    let app = connect(&server.app_url("app")).await;
    app.query_one("select total from list_accounts($1, $2, 10, 0)", &[&user.tenant, &user.user]).await.unwrap();
    // Forced: not even who ran the migrations, and is a member of the owner, sees rows without a context.
    app.execute(INSERT_ACCOUNT, &[&user.tenant, &user.user, &Uuid::now_v7()]).await.unwrap();
    let master = connect(&url).await;
    assert_eq!(master.query_one("select count(*) from email_accounts", &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// Whoever writes: what the functions refuse themselves is refused once more.
#[tokio::test]
async fn an_account_with_a_fault_in_its_settings_is_refused_by_the_database() {
    let (owner, user, id) = (owner().await, User::new(), Uuid::now_v7());
    owner.execute(INSERT_ACCOUNT, &[&user.tenant, &user.user, &id]).await.unwrap();
    let fault = |result: Result<u64, tokio_postgres::Error>| -> Option<String> {
        let error = result.err()?;
        assert_eq!(error.code(), Some(&SqlState::CHECK_VIOLATION), "{error:?}");
        Some(error.as_db_error()?.constraint()?.to_owned())
    };
    for (column, values, constraint) in [
        ("account_name", &["''", "' x'", "'x '"][..], "account_name"),
        ("account_name", &["e'x\\u0007'", "e'x\\u009f'"], "control"),
        ("email_address", &["'a@'", "'@example.com'", "'a@b'", "repeat('a', 65) || '@example.com'"], "email_address"),
        ("email_address", &["repeat('a', 10) || '@' || repeat('b', 244)"], "email_address"),
        ("email_address", &["e'a\\u007f@example.com'"], "control"),
        ("address_key", &["'a'", "'a@b'", "'@b.c'", "repeat('a', 512) || '@b.c'"], "address_key"),
        ("protocol", &["'smtp'", "''"], "protocol"),
        ("hostname", &["''", "repeat('a', 254)", "'a b'", "'a@b'", "'a/b'", "'a_b'"], "hostname"),
        ("hostname", &["e'a\\nb'"], "control"),
        ("port", &["0", "-1", "65536"], "port"),
        ("encryption", &["'ssl'", "''"], "encryption"),
        ("username", &["''"], "username"),
        ("username", &["e'a\\rb'"], "control"),
        ("sync_interval", &["59", "3601"], "sync_interval"),
        ("auth_type", &["'none'", "''"], "auth_type"),
        ("smtp_hostname", &["''", "repeat('a', 254)", "'a b'", "'a_b'", "e'a\\nb'"], "smtp"),
        ("smtp_port", &["0", "65536"], "smtp"),
        ("smtp_encryption", &["'ssl'"], "smtp"),
        ("smtp_username", &["''", "e'a\\nb'"], "smtp"),
        ("state", &["'fine'", "''"], "state"),
        ("last_error_code", &["'tls'"], "last_error"),
        ("updated_at", &["created_at - 1"], "updated_at"),
    ] {
        for value in values {
            let sql = format!("update email_accounts set {column} = {value} where id = $1");
            let expected = Some(format!("email_accounts_{constraint}_check"));
            assert_eq!(fault(owner.execute(&sql, &[&id]).await), expected, "{column} = {value}");
        }
    }
    let last_error = |code: &str, service: &str| {
        format!(
            "update email_accounts set last_error_code = '{code}', last_error_message = 'x', last_error_service = '{service}',
                 last_error_at = 1
             where id = $1"
        )
    };
    assert_eq!(fault(owner.execute(&last_error("tls", "imap"), &[&id]).await), None);
    for (code, service) in [("gone", "imap"), ("tls", "http")] {
        let refused = fault(owner.execute(&last_error(code, service), &[&id]).await);
        assert_eq!(refused.as_deref(), Some("email_accounts_last_error_check"), "{code} {service}");
    }
    let insert = INSERT_ACCOUNT.replace("'imap'", "'smtp'");
    let inserted = owner.execute(&insert, &[&user.tenant, &user.user, &Uuid::now_v7()]).await;
    assert_eq!(fault(inserted).as_deref(), Some("email_accounts_protocol_check"));
}

#[tokio::test]
async fn what_a_user_sees_of_an_account_gets_one_number_however_much_of_it_changes_at_once() {
    let (owner, user, id) = (owner().await, User::new(), Uuid::now_v7());
    owner.execute(INSERT_ACCOUNT, &[&user.tenant, &user.user, &id]).await.unwrap();
    for (change, numbers) in [
        ("port = 2", 1),
        ("state = 'connected'", 1),
        ("port = 3, state = 'new'", 1),
        ("port = port, state = state", 0),
        ("next_sync_at = 1, lease_token = lease_token + 1, rung_at = 1", 0),
    ] {
        let number = "select a.changed_number, n.last from email_accounts a
                      join email_change_numbers n using (tenant_id, user_id) where a.id = $1";
        let read = async || {
            let row = owner.query_one(number, &[&id]).await.unwrap();
            (row.get::<_, i64>(0), row.get::<_, i64>(1))
        };
        let (changed, last) = read().await;
        assert_eq!(changed, last, "{change}");
        owner.execute(&format!("update email_accounts set {change} where id = $1"), &[&id]).await.unwrap();
        assert_eq!(read().await, (changed + numbers, last + numbers), "{change}");
    }
}

/// The rows of each table that the policies hold, as texts.
async fn all_rows(admin: &tokio_postgres::Client) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    let tables = "select tablename::text from pg_tables where tableowner = 'email_service_owner'";
    for table in admin.query(tables, &[]).await.unwrap() {
        let table: String = table.get(0);
        let rows = admin.query(&format!("select t::text from {table} t order by 1"), &[]).await.unwrap();
        all.insert(table, rows.iter().map(|row| row.get(0)).collect());
    }
    all
}

/// The last step of OPERATIONS.md, "Restore", as it stands there, done by an owner who is no superuser.
#[tokio::test]
async fn a_restored_database_is_copied_back_as_the_runbook_says() {
    let page = fs::read_to_string(local::workspace_root().join("docs/OPERATIONS.md")).unwrap();
    let blocks = page.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let dumps: Vec<_> = blocks.filter(|block| block.contains("pg_dump ")).collect();
    let [commands] = dumps[..] else { panic!("{dumps:?}") };

    let server = local::services::Postgres::start().unwrap();
    let admin = connect(&server.owner_url("postgres")).await;
    admin.batch_execute("create role master login createrole password 'master'").await.unwrap();
    let mut databases = Vec::new();
    for name in ["old", "restored"] {
        admin.batch_execute(&format!("create database {name} owner master")).await.unwrap();
        let url = format!("postgres://master:master@127.0.0.1:{}/{name}", server.port());
        migrate::apply(&url, &server.role_urls(name)).await.unwrap();
        let (user, id) = (User::new(), Uuid::now_v7());
        connect(&server.app_url(name)).await.execute(INSERT_ACCOUNT, &[&user.tenant, &user.user, &id]).await.unwrap();
        databases.push((
            connect(&server.owner_url(name)).await,
            json!({"tenantId": user.tenant, "userId": user.user, "id": id}),
        ));
    }
    let [(old, _), (restored, account)] = &databases[..] else { panic!("two databases") };
    let folder = store(restored, "email_folders", folder_row(account, "INBOX", json!({}))).await;
    store(restored, "email_messages", message_row(account, folder, json!({}))).await;
    let expected = all_rows(restored).await;
    for (table, count) in [("email_accounts", 1), ("email_credentials", 1), ("email_folders", 1), ("email_messages", 1)]
    {
        assert_eq!(expected[table].len(), count, "{table}");
    }
    assert_ne!(all_rows(old).await, expected);

    let path = std::env::var_os("PATH").unwrap();
    let path = [local::services::postgres_binaries().unwrap()].into_iter().chain(std::env::split_paths(&path));
    let login = |name: &str| format!("host=127.0.0.1 port={} dbname={name}", server.port());
    let output = Command::new("sh")
        .args(["-c", commands])
        .env("PATH", std::env::join_paths(path).unwrap())
        .envs([("PGUSER", "master"), ("PGPASSWORD", "master")])
        .envs(["old", "restored"].map(|name| (name, login(name))))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(all_rows(old).await, expected);
    assert_eq!(all_rows(restored).await, expected);
    // And each is held again.
    let let_go = "select count(*) from pg_class where relrowsecurity and not relforcerowsecurity";
    let asleep = "select count(*) from pg_trigger where tgenabled = 'D'";
    for (database, sql) in [(old, let_go), (restored, let_go), (old, asleep), (restored, asleep)] {
        assert_eq!(database.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 0, "{sql}");
    }
}

#[tokio::test]
async fn each_request_is_one_round_trip_to_redis_and_one_to_postgresql() {
    let servers = servers().await;
    let (postgres, redis) = (Proxy::to_port(servers.postgres.port()).await, Proxy::to_port(servers.redis.port()).await);
    let mut env = servers.env();
    env.insert("DATABASE_URL", postgres.url(&servers.postgres.app_url("app"), servers.postgres.port()));
    env.insert(READER_DATABASE_URL, postgres.url(&servers.postgres.reader_url("app"), servers.postgres.port()));
    env.insert("REDIS_URL", format!("redis://{}", redis.address));
    let api = Api::start_as(env, PayloadVersion::V2, 1).await;
    let user = User::new();
    let created = api.create(&user, json!({})).await;
    let own = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let foreign = api.create(&User::new(), json!({})).await;
    let foreign = format!("/api/accounts/{}", foreign["id"].as_str().unwrap());
    let unknown = format!("/api/accounts/{}", Uuid::now_v7());
    let scope = Scope { tenant_id: TenantId(user.tenant), user_id: UserId(user.user) };
    let [since, ahead] = [0, 1 << 60].map(|number| {
        let cursor = serde_json::to_value(Place { since: number, known: number }.cursor(&scope)).unwrap();
        cursor.as_str().unwrap().to_owned()
    });
    let draft = api.post("/api/drafts", json!({})).by(&user).send().await;
    let draft = draft.header("location").unwrap().to_owned();
    let requests = || {
        [
            (200, api.get("/api/accounts")),
            (200, api.get(&own)),
            (403, api.get(&foreign)),
            (404, api.get(&unknown)),
            (200, api.put(&own, json!({"port": 1, "password": "x"}))),
            (403, api.put(&foreign, json!({"port": 1}))),
            (409, api.post("/api/accounts", account(json!({})))),
            (409, api.post("/api/accounts", account(json!({}))).header("idempotency-key", "k")),
            (202, api.request("POST", &format!("{own}/sync"))),
            (200, api.get(&format!("{own}/sync"))),
            (200, api.delete(&format!("{own}/sync"))),
            (403, api.request("POST", &format!("{foreign}/sync"))),
            (404, api.get(&format!("{unknown}/sync"))),
            (403, api.delete(&format!("{foreign}/sync"))),
            (200, api.get(&format!("{own}/folders"))),
            (403, api.get(&format!("{foreign}/folders"))),
            (200, api.get("/api/messages")),
            (200, api.get("/api/messages?role=inbox&isRead=false&after=7")),
            (200, api.get("/api/messages?q=lunch&from=jane&hasAttachments=true")),
            (200, api.get("/api/changes")),
            (200, api.get(&format!("/api/changes?since={since}"))),
            (400, api.get(&format!("/api/changes?since={ahead}"))),
            (201, api.post("/api/drafts", json!({"accountId": created["id"]}))),
            (400, api.post("/api/drafts", json!({"replyToId": created["id"]})).header("idempotency-key", "k")),
            (200, api.get("/api/drafts")),
            (200, api.get(&draft)),
            (409, api.put(&draft, json!({"version": 2}))),
            (404, api.delete(&format!("/api/drafts/{}", Uuid::now_v7()))),
            (403, api.delete(&foreign)),
            (404, api.delete(&unknown)),
        ]
    };
    // Where a busy machine has once taken longer than the 100 ms that Redis has, requests are counted elsewhere, or connect anew.
    let one_to_each = async |answer: &Answer, trips: (u32, u32)| {
        api.log_of(answer).await;
        let is_busy = api.log().contains("redis_unavailable");
        assert!(trips == (1, 1) || is_busy && trips.1 == 1, "{trips:?} {answer:?}");
    };
    // The first round connects each function.
    for round in ["cold", "warm"] {
        for (status, request) in requests() {
            postgres.take_trips();
            redis.take_trips();
            let answer = request.by(&user).send().await;
            assert_eq!(answer.status, status, "{answer:?}");
            if round == "warm" {
                one_to_each(&answer, (redis.take_trips(), postgres.take_trips())).await;
            }
        }
    }
    let new = |address: &str| api.post("/api/accounts", account(json!({"emailAddress": address})));
    for (status, request) in [
        (201, new("new@example.com")),
        (201, new("newer@example.com").header("idempotency-key", "l")),
        (201, new("newer@example.com").header("idempotency-key", "l")),
        (422, new("other@example.com").header("idempotency-key", "l")),
        (200, api.delete(&own)),
    ] {
        postgres.take_trips();
        redis.take_trips();
        let answer = request.by(&user).send().await;
        assert_eq!(answer.status, status);
        one_to_each(&answer, (redis.take_trips(), postgres.take_trips())).await;
    }
    postgres.take_trips();
    api.post("/api/accounts", json!({})).by(&user).send().await.is_refused(400);
    assert_eq!(postgres.take_trips(), 0, "what validation refuses does not reach PostgreSQL");
}

#[tokio::test]
async fn with_a_million_accounts_the_list_is_served_by_an_index_and_the_policy_is_evaluated_once() {
    let database = new_database().await;
    let postgres = &servers().await.postgres;
    let client = connect(&postgres.owner_url(&database)).await;
    // Without triggers the foreign key is not checked: filling takes a third of the time. A user has a hundred accounts,
    // but for one who has ten thousand.
    client
        .batch_execute(
            "set session_replication_role = replica;
             create function id_of(n bigint, kind int) returns uuid language sql immutable
                 as $$ select (lpad(to_hex(kind), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid $$;
             drop index email_accounts_address_tenant_idx;
             insert into email_accounts (id, tenant_id, user_id, account_name, email_address, address_key, protocol, hostname, port, encryption, username, credential_id, created_at, updated_at)
             select id_of(n, 1), case when n < 10000 then id_of(0, 2) else id_of(n % 100, 2) end, case when n < 10000 then id_of(0, 3) else id_of(n % 10000, 3) end,
                    'x', n || '@example.com', n || '@example.com', 'imap', 'h', 993, 'tls', 'u', id_of(n, 4), n, n
             from generate_series(0, 999999) n;
             analyze email_accounts;",
        )
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    let setup = "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
        set auto_explain.log_analyze = on; set auto_explain.log_timing = off; set client_min_messages = log; set role email_service_app";
    // The plan cache settles after five runs: both plans, the custom and the generic one, must use the index.
    for (user, n) in [("few", 10042), ("many", 0)] {
        let (explained, notices) = explaining(&postgres.owner_url(&database), setup).await;
        for run in 0..7 {
            let page = format!(
                "select total, (account).id from list_accounts('00000002-0000-7000-8000-{:012x}', '00000003-0000-7000-8000-{:012x}', 100, 0)",
                n % 100,
                n % 10000
            );
            notices.lock().unwrap().clear();
            assert!(explained.query(&page, &[]).await.unwrap().len() >= 99, "{user}");
            let plan = notices.lock().unwrap().join("\n");
            // For a handful of rows the planner may as well sort what the other index finds.
            let few = user == "few" && plan.contains("email_accounts_user_tenant_idx");
            assert!(few || plan.contains("email_accounts_list_idx"), "{user}, run {run}: {plan}");
            assert!(!plan.contains("Seq Scan"), "{user}, run {run}: {plan}");
            assert!(!plan.contains("SubPlan"), "the policy is evaluated per row: {plan}");
            assert!(few || !plan.contains("Sort"), "{user}, run {run}: {plan}");

            notices.lock().unwrap().clear();
            let one = format!(
                "select id from find_account('00000002-0000-7000-8000-{:012x}', '00000003-0000-7000-8000-{:012x}', '00000001-0000-7000-8000-{n:012x}')",
                n % 100,
                n % 10000
            );
            assert_eq!(explained.query(&one, &[]).await.unwrap().len(), 1, "{user}");
            let plan = notices.lock().unwrap().join("\n");
            assert!(!plan.contains("Removed by Filter"), "{user}, run {run}: {plan}");
        }
        // A create counts no further than the cap, and finds an address by its key.
        notices.lock().unwrap().clear();
        let create = format!(
            "select id from insert_account('00000002-0000-7000-8000-{:012x}', '00000003-0000-7000-8000-{:012x}', gen_random_uuid(), 'x', 'new@example.com', 'new@example.com', 'imap', 'x', 1, 'tls', 'x', true, 300, gen_random_uuid(), 'sha512', repeat('0', 128), repeat('0', 64), 50, null, null, null, null, null, null, null)",
            n % 100,
            n % 10000
        );
        assert_eq!(explained.query(&create, &[]).await.unwrap().len(), 0, "{user}");
        let plan = notices.lock().unwrap().join("\n");
        assert!(plan.contains("email_accounts_address_key") && !plan.contains("Seq Scan"), "{user}: {plan}");
        assert!(plan.contains("actual rows=50") && !plan.contains("Removed by Filter"), "{user}: {plan}");
    }
}

/// A trigger that is for some columns is not asked when another one is written, whatever its condition says of that.
#[tokio::test]
async fn what_a_user_sees_of_an_account_gives_it_a_number() {
    let (api, user) = (api().await, User::new());
    let account = api.create(&user, json!({})).await;
    let client = owner().await;
    let set = async |columns: &str| -> bool {
        let sql = format!(
            "with before as (select changed_number from email_accounts where id = $1::text::uuid)
             update email_accounts a set {columns} from before b where a.id = $1::text::uuid
             returning a.changed_number > b.changed_number"
        );
        client.query_one(&sql, &[&account["id"].as_str().unwrap()]).await.unwrap().get(0)
    };
    assert!(
        set("last_error_code = 'tls', last_error_message = 'x', last_error_service = 'imap', last_error_at = 1").await
    );
    assert!(set("smtp_hostname = 'h', smtp_port = 1, smtp_encryption = 'tls', smtp_username = 'u'").await);
    for column in [
        "account_name = 'Other'",
        "email_address = 'other@example.com'",
        "protocol = 'pop3'",
        "hostname = 'other'",
        "port = 1",
        "encryption = 'starttls'",
        "username = 'other'",
        "is_sync_enabled = false",
        "sync_interval = 61",
        "smtp_hostname = 'other'",
        "smtp_port = 2",
        "smtp_encryption = 'starttls'",
        "smtp_username = 'other'",
        "auth_type = 'oauth2'",
        "provider = 'other'",
        "state = 'connected'",
        "last_error_code = 'protocol'",
        "last_error_message = 'other'",
        "last_error_service = 'pop3'",
    ] {
        assert!(set(column).await, "{column}");
        assert!(!set(column).await, "{column} again");
    }
    // What changes with each turn does not.
    for column in
        ["last_sync_at = 2", "next_sync_at = 2", "leased_until = 2", "deaths = 2", "failures = 2", "last_error_at = 2"]
    {
        assert!(!set(column).await, "{column}");
    }
    assert!(set("is_enabled = false").await);
}

#[tokio::test]
async fn with_many_messages_a_page_is_read_from_an_index_in_its_order_whoever_asks() {
    let database = new_database().await;
    let postgres = &servers().await.postgres;
    let client = connect(&postgres.owner_url(&database)).await;
    // One user has half of them all, another has next to none; the others are a thousand. The planner knows the averages.
    client
        .batch_execute(
            "set session_replication_role = replica;
             create function id_of(n bigint, kind int) returns uuid language sql immutable
                 as $$ select (lpad(to_hex(kind), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid $$;
             insert into email_accounts (id, tenant_id, user_id, account_name, email_address, address_key, protocol, hostname, port, encryption, username, credential_id, created_at, updated_at)
             select id_of(n, 1), id_of(n / 100, 2), id_of(n, 3), 'x', n || '@example.com', n || '@example.com', 'imap', 'h', 993, 'tls', 'u', id_of(n, 4), n, n
             from generate_series(0, 1001) n;
             insert into email_folders (id, tenant_id, user_id, account_id, wire_name, path, role, is_selectable, created_number, changed_number)
             select id_of(n * 10 + k, 5), id_of(n / 100, 2), id_of(n, 3), id_of(n, 1), 'F'::bytea || k::text::bytea, 'F' || k,
                    case when k = 0 then 'inbox' end, true, 0, 0
             from generate_series(0, 1001) n, generate_series(0, 4) k;
             insert into email_messages (id, tenant_id, user_id, account_id, folder_id, identity, thread_id, uid, received_at, size, created_number, changed_number, is_read, is_flagged, is_answered, is_draft, has_attachments, is_readable, subject)
             select id_of(n, 6), id_of(u / 100, 2), id_of(u, 3), id_of(u, 1), id_of(u * 10 + n / 2 % 5, 5), id_of(n, 7), id_of(n, 8),
                    n, n, 1, 0, n, n % 20 > 1, n % 50 < 2, false, false, false, true, 'x'
             from (select n, case when n % 2 = 0 then 0 when n < 100 then 1001 else 1 + n / 10 % 1000 end as u from generate_series(0, 199999) n) x;
             analyze email_accounts, email_folders, email_messages;",
        )
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    let setup = "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
        set auto_explain.log_analyze = on; set auto_explain.log_timing = off; set client_min_messages = log; set role email_service_app";
    let (explained, notices) = explaining(&postgres.owner_url(&database), setup).await;
    let place = "100000, '00000006-0000-7000-8000-0000000186a0'";
    let cases = [
        ("null, null, null, null, null, null, null, null, null".to_owned(), "user_idx", 1),
        (format!("null, null, null, null, null, 10, 150000, {place}"), "user_idx", 1),
        (format!("null, null, null, null, false, null, 90000, {place}"), "user_idx", 1),
        ("null, null, null, false, null, null, null, null, null".to_owned(), "unread_idx", 5),
        (format!("null, null, null, null, true, 10, null, {place}"), "flagged_idx", 5),
        (format!("id_of($n, 1), null, null, null, null, null, null, {place}"), "folder_idx", 5),
        ("null, id_of($n * 10 + 2, 5), null, null, null, 10, 150000, null, null".to_owned(), "folder_idx", 1),
        (format!("null, null, 'inbox', null, null, 10, 150000, {place}"), "folder_idx", 1),
        ("null, null, 'inbox', false, null, null, null, null, null".to_owned(), "unread_idx", 1),
    ];
    for n in [0, 7, 1001] {
        for (arguments, index, folders) in &cases {
            let arguments = arguments.replace("$n", &n.to_string());
            let call = format!(
                "select count(*) from list_messages(id_of({n} / 100, 2), id_of({n}, 3), 51, {arguments}, {NO_MORE})"
            );
            // Within the function a statement with these values is planned anew; that of the folders is kept after five.
            for _ in 0..2 {
                notices.lock().unwrap().clear();
                let count: i64 = explained.query_one(&call, &[]).await.unwrap().get(0);
                assert!(count == 51 || n != 0 || index.starts_with("user") || *folders == 1, "{call}: {count}");
                let plans = notices.lock().unwrap().clone();
                let plan = plans.iter().find(|plan| plan.contains("select m.*")).unwrap();
                assert!(plan.contains(&format!("Index Scan Backward using email_messages_{index}")), "{call}: {plan}");
                assert!(
                    !plan.contains("Seq Scan") && !plan.contains("SubPlan") && !plan.contains("JIT"),
                    "{call}: {plan}"
                );
                // Of each folder no more than the page, and nothing that is thrown away but for what no index knows.
                let scanned = plan.lines().find(|line| line.contains("Index Scan Backward")).unwrap();
                let rows: f64 =
                    scanned.split("(actual rows=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
                assert!(rows <= 51.0, "{call}: {plan}");
                let removed =
                    plan.split("Rows Removed by Filter: ").nth(1).map(|rest| rest.split_whitespace().next().unwrap());
                let removed: u64 = removed.map_or(0, |removed| removed.parse().unwrap());
                assert!(removed <= 51, "{call}: {plan}");
                let whole = plans.join("\n");
                assert!(!whole.contains("Seq Scan"), "{call}: {whole}");
            }
        }
    }

    // What has changed is read from indexes likewise, no further than the page.
    client
        .batch_execute(
            "insert into email_change_numbers select id_of(n / 100, 2), id_of(n, 3), 1000000, 0 from generate_series(0, 1001) n;
             insert into email_destroyed select id_of(n / 100, 2), id_of(n, 3), 150000 + k, 'message', id_of(k, 9), id_of(n, 1), 0
             from generate_series(0, 1001) n, generate_series(0, 99) k;
             insert into email_outbox (id, tenant_id, user_id, account_id, status, created_at, dated_at, message_id, sender_name, sender_address, content, recipients, changed_number)
             select id_of(n * 100 + k, 10), id_of(n / 100, 2), id_of(n, 3), id_of(n, 1), 'sent', k, k, 'm', 'n', 'a', '{}', '[]', 165000
             from generate_series(0, 1001) n, generate_series(0, 99) k;
             update email_accounts set changed_number = 160000; update email_folders set changed_number = 170000;
             analyze email_accounts, email_folders, email_destroyed, email_change_numbers, email_outbox;",
        )
        .await
        .unwrap();
    // The sixth time the plan may be one for any numbers.
    for n in [0, 7, 0, 7, 1001, 0, 0, 7] {
        for since in [10, 60_000, 149_000, 999_999] {
            notices.lock().unwrap().clear();
            let call =
                format!("select count(number) from list_changes(id_of({n} / 100, 2), id_of({n}, 3), {since}, 0, 51)");
            let count: i64 = explained.query_one(&call, &[]).await.unwrap().get(0);
            assert!(count == if since == 999_999 { 0 } else { 51 } || n == 1001 && count > 0, "{call}: {count}");
            let plans = notices.lock().unwrap().clone();
            let plan = plans.iter().find(|plan| plan.contains("with counter")).unwrap();
            for table in ["accounts", "folders", "messages", "outbox"] {
                assert!(plan.contains(&format!("Index Scan using email_{table}_changes_idx")), "{call}: {plan}");
            }
            assert!(
                plan.contains("Merge Append") && plan.contains("Index Scan using email_destroyed_pkey"),
                "{call}: {plan}"
            );
            let is_one = ["Seq Scan", "Bitmap", "Removed by Filter", "JIT"].iter().all(|word| !plan.contains(word));
            assert!(is_one, "{call}: {plan}");
            for rows in plan.split("actual rows=").skip(1) {
                let rows: f64 = rows.split(' ').next().unwrap().parse().unwrap();
                assert!(rows <= 51.0, "{call}: {plan}");
            }
        }
    }

    // All messages of the one who has half of them get a label.
    client
        .batch_execute(
            "insert into email_folders (id, tenant_id, user_id, account_id, wire_name, path, is_selectable, is_label, created_number, changed_number)
             values (id_of(9, 5), id_of(0, 2), id_of(0, 3), id_of(0, 1), 'L', 'L', true, true, 0, 0);
             insert into email_labels (tenant_id, user_id, folder_id, message_id, received_at, is_read, is_flagged)
             select tenant_id, user_id, id_of(9, 5), id, received_at, is_read, is_flagged from email_messages where user_id = id_of(0, 3);
             analyze email_folders, email_labels;",
        )
        .await
        .unwrap();
    for (arguments, index) in [
        ("null, null, null, null, null, null".to_owned(), "folder_idx"),
        (format!("null, null, 10, 150000, {place}"), "folder_idx"),
        (format!("false, null, null, null, {place}"), "unread_idx"),
        (format!("null, true, null, 150000, {place}"), "flagged_idx"),
    ] {
        let call = format!(
            "select count(*) from list_messages(id_of(0, 2), id_of(0, 3), 51, null, id_of(9, 5), null, {arguments}, {NO_MORE})"
        );
        notices.lock().unwrap().clear();
        assert_eq!(explained.query_one(&call, &[]).await.unwrap().get::<_, i64>(0), 51);
        let whole = notices.lock().unwrap().join("\n");
        let index = format!("Index Scan Backward using email_labels_{index}");
        let scanned = whole.lines().find(|line| line.contains(&index));
        let scanned = scanned.unwrap_or_else(|| panic!("{call}: {whole}"));
        let rows: f64 = scanned.split("(actual rows=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(rows <= 51.0, "{call}: {whole}");
        assert!(!whole.contains("Seq Scan") && !whole.contains("JIT"), "{call}: {whole}");
    }
}

/// No thread, no attachments, no texts.
const NO_MORE: &str = "null, null, null, null, null, null, null";

/// A connection whose notices are kept: that is where auto_explain writes to.
async fn explaining(url: &str, setup: &str) -> (tokio_postgres::Client, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
    use futures_util::StreamExt;
    let (client, mut connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let notices = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = notices.clone();
    tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let tokio_postgres::AsyncMessage::Notice(notice) = message {
                sink.lock().unwrap().push(notice.message().to_owned());
            }
        }
    });
    client.batch_execute(setup).await.unwrap();
    (client, notices)
}

/// Ends with its scope.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn all_works_through_pgbouncer_in_transaction_mode_under_load() {
    let servers = Servers::start_with(&["max_connections=50"]).await;
    // So few connections for all: any state left on one would be seen by the next caller at once.
    let bouncer = PgBouncer::start(&servers.postgres, 2).unwrap();
    let mut env = servers.env();
    env.insert("DATABASE_URL", bouncer.app_url("app"));
    env.insert(READER_DATABASE_URL, bouncer.reader_url("app"));
    let api = Api::start_as(env, PayloadVersion::V2, 4).await;
    let users: Vec<_> = (0..8).map(|_| User::new()).collect();
    let work = users.iter().map(|user| async {
        for n in 0..15 {
            let address = format!("{n}@{}.example.com", user.user);
            let created = api.create(user, json!({"emailAddress": address})).await;
            let path = format!("/api/accounts/{}", created["id"].as_str().unwrap());
            assert_eq!(api.get(&path).by(user).send().await.body, created);
            assert_eq!(api.put(&path, json!({"port": n + 1})).by(user).send().await.body["port"], n + 1);
            let listed = api.addresses(user).await;
            assert!(
                listed.iter().all(|address| address.contains(&user.user.to_string())),
                "another user's account: {listed:?}"
            );
            assert_eq!(listed.len(), n + 1);
        }
    });
    join_all(work).await;
}

async fn wait_for_port(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(Instant::now() < deadline, "nothing listens on port {port}");
        tokio::task::yield_now().await;
    }
}

/// A server whose certificate is made here, by an authority that the functions are told of with SSL_CERT_FILE.
#[tokio::test]
async fn tls_to_postgresql_and_redis_is_used_and_verified() {
    let mut servers = Servers::start().await;
    let directory = servers.postgres.data_dir().to_path_buf();
    let public = std::env::temp_dir().join(format!("tls-{}", Uuid::new_v4()));
    fs::create_dir(&public).unwrap();
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let authority_file = public.join("authority.pem");
    fs::write(&authority_file, authority.pem()).unwrap();
    fs::write(public.join("server.pem"), certificate.pem()).unwrap();
    fs::write(public.join("server.key"), key.serialize_pem()).unwrap();
    for (name, text) in [("server.crt", certificate.pem()), ("server.key", key.serialize_pem())] {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        // PostgreSQL insists on a key that is its own and nobody else's.
        assert!(Command::new("chmod").args(["600"]).arg(&path).status().unwrap().success());
        assert!(Command::new("chown").arg("--reference").arg(&directory).arg(&path).status().unwrap().success());
    }
    servers.postgres.stop().unwrap();
    let settings = fs::read_to_string(directory.join("postgresql.auto.conf")).unwrap();
    fs::write(directory.join("postgresql.auto.conf"), format!("{settings}\nssl = on\n")).unwrap();
    servers.postgres.start_again().unwrap();
    let redis_port = free_port().unwrap();
    let _redis = Process(
        Command::new("redis-server")
            .args([
                "--port",
                "0",
                "--tls-port",
                &redis_port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--tls-auth-clients",
                "no",
            ])
            .arg("--tls-cert-file")
            .arg(public.join("server.pem"))
            .arg("--tls-key-file")
            .arg(public.join("server.key"))
            .arg("--tls-ca-cert-file")
            .arg(&authority_file)
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
    );
    wait_for_port(redis_port).await;

    let database = servers.postgres.reader_url("app");
    let env = |database: String, trusted: bool| {
        let mut env = servers.env();
        env.insert(READER_DATABASE_URL, database);
        env.insert("REDIS_URL", format!("rediss://localhost:{redis_port}"));
        if trusted {
            env.insert("SSL_CERT_FILE", authority_file.display().to_string());
        }
        env
    };
    for mode in ["require", "verify-full"] {
        let url = format!("{}?sslmode={mode}", database.replace("127.0.0.1", "localhost"));
        let api = Api::start(env(url.clone(), true)).await;
        let started = Instant::now();
        loop {
            let answer = api.get("/api/accounts").by(&User::new()).send().await;
            assert_eq!(answer.status, 200, "{}", api.log());
            if api.log_of(&answer).await["rateLimitFallback"] == json!(false) {
                break;
            }
            // A handshake may take longer than the 100 ms that Redis has at the start.
            assert!(started.elapsed() < Duration::from_secs(20), "{}", api.log());
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
        let encrypted = "select bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid) where usename = 'email_service_reader'";
        let owner = connect(&servers.postgres.owner_url("app")).await;
        assert!(owner.query_one(encrypted, &[]).await.unwrap().get::<_, bool>(0));

        // An authority that nobody trusts, and a name that the certificate does not have.
        let untrusted = Api::start(env(url, false)).await;
        untrusted.get("/api/accounts").by(&User::new()).send().await.is_refused(500);
        let misnamed = Api::start(env(format!("{database}?sslmode={mode}"), true)).await;
        misnamed.get("/api/accounts").by(&User::new()).send().await.is_refused(500);
    }
    fs::remove_dir_all(public).unwrap();
}

#[tokio::test]
async fn time_limits_belong_to_the_role_and_lie_below_those_of_the_functions() {
    for url in servers().await.postgres.role_urls("app") {
        let client = connect(&url).await;
        let limit: String = client.query_one("select current_setting('statement_timeout')", &[]).await.unwrap().get(0);
        assert_eq!(limit, "4s", "{url}");
    }
    let reach_nothing = ["health", "default-route", "docs"];
    for function in crate::support::functions().iter().filter(|f| !reach_nothing.contains(&f.binary.as_str())) {
        assert!(function.timeout > Duration::from_secs(6), "{} has {:?}", function.binary, function.timeout);
    }
}

#[tokio::test]
async fn a_foreign_key_cannot_point_at_another_tenants_credential() {
    let client = owner().await;
    let api = crate::support::api().await;
    let (first, second) = (api.create(&User::new(), json!({})).await, api.create(&User::new(), json!({})).await);
    let steal = "update email_accounts set credential_id = $1 where id = $2";
    let (credential, id): (Uuid, Uuid) =
        (first["credentialId"].as_str().unwrap().parse().unwrap(), second["id"].as_str().unwrap().parse().unwrap());
    client
        .execute("delete from email_accounts where id = $1", &[&first["id"].as_str().unwrap().parse::<Uuid>().unwrap()])
        .await
        .unwrap();
    let error = client.execute(steal, &[&credential, &id]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::FOREIGN_KEY_VIOLATION));
}
