//! When two addresses are one, how they change at the same time, and how older rows learn of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{join, join_all};
use refinery::Target;
use serde_json::{Value, json};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use crate::support::{Api, User, account, api, connect, logins, new_database, servers};

fn path(account: &Value) -> String {
    format!("/api/accounts/{}", account["id"].as_str().unwrap())
}

/// A database whose `lower()` knows ASCII only, without the migrations.
async fn database_of_character_type_c(name: &str) -> String {
    let postgres = &servers().await.postgres;
    let client = connect(&postgres.owner_url("postgres")).await;
    let create = format!("create database {name} encoding 'UTF8' lc_collate 'C' lc_ctype 'C' template template0");
    client.batch_execute(&create).await.unwrap();
    name.to_owned()
}

async fn api_of(database: &str) -> Api {
    let mut env = servers().await.env();
    env.extend(logins(&servers().await.postgres, database));
    Api::start(env).await
}

#[tokio::test]
async fn two_spellings_of_one_address_are_one_whatever_the_locale_of_the_database() {
    let database = database_of_character_type_c("character_type_c").await;
    let postgres = &servers().await.postgres;
    migrate::apply(&postgres.owner_url(&database), &postgres.role_urls(&database)).await.unwrap();
    let (other_locale, api) = (api_of(&database).await, api().await);
    for api in [api, &other_locale] {
        let user = User::new();
        api.create(&user, json!({"emailAddress": "JÜRGEN@bücher.example"})).await;
        let second = api.create(&user, json!({"emailAddress": "second@example.com"})).await;
        for same in ["jürgen@bücher.example", "ju\u{308}rgen@XN--bcher-kva.example", "Jürgen@BÜCHER。example"] {
            let answer = api.post("/api/accounts", account(json!({"emailAddress": same}))).by(&user).send().await;
            answer.is_refused(409);
            api.put(&path(&second), json!({"emailAddress": same})).by(&user).send().await.is_refused(409);
        }
        api.create(&user, json!({"emailAddress": "jurgen@bücher.example"})).await;
        assert_eq!(
            api.addresses(&user).await,
            ["jurgen@bücher.example", "second@example.com", "JÜRGEN@bücher.example"],
            "kept as sent"
        );
    }
}

#[tokio::test]
async fn an_account_can_change_the_spelling_of_its_address() {
    let (api, user) = (api().await, User::new());
    let created = api.create(&user, json!({"emailAddress": "jürgen@bücher.example"})).await;
    for address in ["JÜRGEN@xn--bcher-kva.example", "ju\u{308}rgen@bücher.example"] {
        let answer = api.put(&path(&created), json!({"emailAddress": address})).by(&user).send().await;
        assert_eq!((answer.status, &answer.body["emailAddress"]), (200, &json!(address)));
    }
}

#[tokio::test]
async fn host_names_in_letters_are_kept_as_sent() {
    let (api, user) = (api().await, User::new());
    let created = api.create(&user, json!({"hostname": "imap.bücher.example"})).await;
    assert_eq!(api.get(&path(&created)).by(&user).send().await.body["hostname"], "imap.bücher.example");
}

/// What the functions of the release before send.
const OLD_INSERT: &str = "select id from insert_account($1, $2, $3, 'x', $4, 'imap', 'x', 1, 'tls', 'x', true, 300, gen_random_uuid(), 'sha512', repeat('0', 128), repeat('0', 64))";
const OLD_UPDATE: &str = "select id from update_account($1, $2, $3, null, $4, null, null, null, null, null, null, null, null, null, null, null)";

async fn old_insert(app: &Client, user: &User, address: &str) -> Result<Uuid, tokio_postgres::Error> {
    let id = Uuid::now_v7();
    app.query_one(OLD_INSERT, &[&user.tenant, &user.user, &id, &address]).await.map(|row| row.get(0))
}

fn is_conflict<T>(outcome: Result<T, tokio_postgres::Error>) -> bool {
    let Err(error) = outcome else { return false };
    error.as_db_error().and_then(|error| error.constraint()) == Some("email_accounts_address_key")
}

#[tokio::test]
async fn older_accounts_get_their_keys_while_the_functions_of_the_release_before_go_on() {
    let database = database_of_character_type_c("migrated_online").await;
    let postgres = &servers().await.postgres;
    let (owner_url, app_url) = (postgres.owner_url(&database), postgres.app_url(&database));
    let mut owner = connect(&owner_url).await;
    migrate::runner().set_target(Target::Version(4)).run_async(&mut owner).await.unwrap();
    let app = connect(&app_url).await;
    let (user, other) = (User::new(), User::new());
    // By lower() in C three of these are three addresses.
    for address in ["Plain@example.com", "jürgen@example.com", "JÜRGEN@example.com", "ju\u{308}rgen@example.com"] {
        old_insert(&app, &user, address).await.unwrap();
    }
    old_insert(&app, &other, "jürgen@example.com").await.unwrap();
    let deleted = old_insert(&app, &other, "Deleted@example.com").await.unwrap();
    app.execute("select disable_account($1, $2, $3)", &[&other.tenant, &other.user, &deleted]).await.unwrap();
    // More than a batch.
    owner
        .batch_execute(
            "with c as (
                insert into email_credentials select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'sha512', repeat('0', 128), repeat('0', 64), 0, 0
                from generate_series(1, 2500) returning *
             )
             insert into email_accounts (id, tenant_id, user_id, account_name, email_address, protocol, hostname, port, encryption, username, credential_id, created_at, updated_at)
             select gen_random_uuid(), tenant_id, user_id, 'x', 'Übung@example.com', 'imap', 'x', 1, 'tls', 'x', id, 0, 0 from c",
        )
        .await
        .unwrap();

    // All the while they add accounts and change them. What PostgreSQL gives up for the other's sake is done again.
    let went_on = AtomicUsize::new(0);
    let is_given_up = |error: &Error| {
        let codes = [
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::DATATYPE_MISMATCH,
            // On a slow machine.
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::QUERY_CANCELED,
        ];
        error.code().is_some_and(|code| codes.contains(code))
    };
    let others = async {
        loop {
            let another = User::new();
            let id = loop {
                match old_insert(&app, &another, "Über@example.com").await {
                    Err(error) if is_given_up(&error) => {}
                    inserted => break inserted.unwrap(),
                }
            };
            let changed = [&another.tenant as &(dyn ToSql + Sync), &another.user, &id, &"unter@example.com"];
            while let Err(error) = app.query_one(OLD_UPDATE, &changed).await {
                assert!(is_given_up(&error), "{error:?}");
            }
            went_on.fetch_add(1, Ordering::Relaxed);
        }
    };
    let apply = async {
        while let Err(error) = migrate::apply(&owner_url, std::slice::from_ref(&app_url)).await {
            assert!(format!("{error:#}").contains("deadlock"), "{error:#}");
        }
    };
    tokio::select! {
        () = apply => {}
        () = others => unreachable!("they go on"),
    }
    assert!(went_on.load(Ordering::Relaxed) > 10, "{went_on:?}");
    let keys = |user: User| {
        let owner = &owner;
        async move {
            let sql =
                "select email_address, address_key, id from email_accounts where user_id = $1 order by created_at, id";
            let rows = owner.query(sql, &[&user.user]).await.unwrap();
            rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect::<Vec<(String, String, Uuid)>>()
        }
    };
    let of_user = keys(user).await;
    let found: Vec<_> = of_user.iter().map(|(_, key, _)| key.clone()).collect();
    let own = |n: usize| format!("jürgen@example.com {}", of_user[n].2);
    assert_eq!(found, ["plain@example.com".to_owned(), "jürgen@example.com".to_owned(), own(2), own(3)]);
    let of_other: Vec<_> = keys(other).await.into_iter().map(|(_, key, _)| key).collect();
    assert_eq!(of_other, ["jürgen@example.com", "deleted@example.com"]);
    let left = "select count(*) filter (where address_key is null), count(*) filter (where address_key = 'übung@example.com') from email_accounts";
    let left = owner.query_one(left, &[]).await.unwrap();
    assert_eq!((left.get::<_, i64>(0), left.get::<_, i64>(1)), (0, 2500));

    // The same connection of the release before goes on, and meets what the new one stores.
    assert!(is_conflict(old_insert(&app, &user, "PLAIN@example.com").await));
    let late = old_insert(&app, &user, "É@example.com").await.unwrap();
    app.query_one(OLD_UPDATE, &[&user.tenant, &user.user, &late, &"Élan@example.com"]).await.unwrap();
    assert!(is_conflict(app.query_one(OLD_UPDATE, &[&user.tenant, &user.user, &late, &"plain@EXAMPLE.com"]).await));
    let api = api_of(&database).await;
    api.post("/api/accounts", account(json!({"emailAddress": "jÜrgen@example.com"})))
        .by(&user)
        .send()
        .await
        .is_refused(409);
    api.create(&user, json!({"emailAddress": "new@example.com"})).await;
    assert!(is_conflict(old_insert(&app, &user, "NEW@example.com").await));

    // Of the accounts that became one address each stays, can be changed, and keeps its address when it is sent again.
    assert_eq!(api.addresses(&user).await.len(), 6);
    let third = format!("/api/accounts/{}", of_user[2].2);
    let again = json!({"emailAddress": "JÜRGEN@example.com", "port": 7});
    assert_eq!(api.put(&third, again).by(&user).send().await.status, 200);
    api.put(&third, json!({"emailAddress": "jürgen@example.com"})).by(&user).send().await.is_refused(409);
    // The next run gives what SQL could not know, and what is free by then.
    assert_eq!(api.delete(&format!("/api/accounts/{}", of_user[1].2)).by(&user).send().await.status, 200);
    assert!(migrate::apply(&owner_url, &[]).await.unwrap().is_empty());
    let keys: BTreeMap<_, _> = keys(user).await.into_iter().map(|(_, key, id)| (id, key)).collect();
    assert_eq!(keys[&of_user[2].2], "jürgen@example.com");
    assert_eq!(keys[&of_user[3].2], own(3));
    assert_eq!(keys[&late], "élan@example.com");
}

#[tokio::test]
async fn an_interrupted_migration_is_ended_by_the_next_run() {
    let database = new_database().await;
    let owner_url = servers().await.postgres.owner_url(&database);
    let owner = connect(&owner_url).await;
    // As it is left behind when the exchange did not come, and an index was not finished.
    owner
        .batch_execute(
            "alter index email_accounts_address_key rename to email_accounts_address_key_next;
             create unique index email_accounts_address_key on email_accounts (tenant_id, user_id, lower(email_address)) where is_enabled;
             update pg_index set indisvalid = false where indexrelid in ('email_accounts_address_key_next'::regclass, 'email_accounts_disabled_idx'::regclass)",
        )
        .await
        .unwrap();
    assert!(migrate::apply(&owner_url, &[]).await.unwrap().is_empty());
    let indexes = "select indexrelid::regclass::text, indisvalid, indexprs is null from pg_index
                   where indexrelid::regclass::text ~ 'address_key|disabled' order by 1";
    let found = owner.query(indexes, &[]).await.unwrap();
    let found: Vec<(String, bool, bool)> = found.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(
        found,
        [("email_accounts_address_key".to_owned(), true, true), ("email_accounts_disabled_idx".to_owned(), true, true)]
    );
}

/// Ten of three hundred pairs answered 403 while the question for the owner was asked of an older snapshot.
#[tokio::test]
async fn a_race_with_oneself_is_never_forbidden() {
    let api = api_with_more_processes().await;
    let user = User::new();
    for n in 0..150 {
        let created = api.create(&user, json!({})).await;
        let path = path(&created);
        let rival = match n % 3 {
            0 => api.put(&path, json!({"port": 1})),
            1 => api.put(&path, json!({"isEnabled": false})),
            _ => api.delete(&path),
        };
        let answers =
            join_all([api.delete(&path), rival, api.get(&path), api.delete(&path)].map(|r| r.by(&user).send())).await;
        for answer in &answers {
            assert!(matches!(answer.status, 200 | 404), "{answer:?}");
        }
    }
    assert!(!api.log().contains("cross_tenant_access_blocked"));
}

async fn api_with_more_processes() -> Api {
    more_processes(servers().await.env()).await
}

async fn more_processes(env: BTreeMap<&'static str, String>) -> Api {
    Api::start_as(env, local::gateway::PayloadVersion::V2, 4).await
}

/// Lets a change of an address take its time between the row and the unique index, in which two that swap would each hold
/// what the other waits for: an index of its own comes before that, and calls a function that sleeps. The trigger that gives
/// changes their numbers orders a user's changes as well, by accident; here it does not.
async fn take_time_before_the_unique_index(owner: &Client) {
    let sql = "select pg_get_indexdef('email_accounts_address_key'::regclass)";
    let definition: String = owner.query_one(sql, &[]).await.unwrap().get(0);
    // They are filled in the order in which they were made.
    let exchange = format!(
        "create function slowly(text) returns text language plpgsql immutable as
             $$ begin perform pg_catalog.pg_sleep(0.02); return $1; end $$;
         create index slow on email_accounts (public.slowly(email_address));
         alter index email_accounts_address_key rename to former;
         {definition};
         drop index former;
         alter table email_accounts disable trigger email_accounts_update"
    );
    owner.batch_execute(&exchange).await.unwrap();
}

/// How often two transactions of this connection's database have waited for each other until now. The others' connections
/// must be closing: only the end of each is certain to tell.
async fn deadlocks(owner: &Client) -> i64 {
    let others = "select count(*) from pg_stat_activity
                  where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()";
    let end = async { while owner.query_one(others, &[]).await.unwrap().get::<_, i64>(0) > 0 {} };
    tokio::time::timeout(Duration::from_secs(30), end).await.expect("connections stay open");
    let sql = "select deadlocks from pg_stat_database where datname = current_database()";
    owner.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn two_accounts_that_swap_their_addresses_at_once_do_not_block_each_other() {
    let database = new_database().await;
    let owner = connect(&servers().await.postgres.owner_url(&database)).await;
    let mut env = servers().await.env();
    env.extend(logins(&servers().await.postgres, &database));
    let api = more_processes(env).await;
    take_time_before_the_unique_index(&owner).await;
    let user = User::new();
    let (a, b) = (json!({"emailAddress": "a@example.com"}), json!({"emailAddress": "b@example.com"}));
    let first = path(&api.create(&user, a.clone()).await);
    let second = path(&api.create(&user, b.clone()).await);
    for _ in 0..10 {
        let swap = [api.put(&first, b.clone()), api.put(&second, a.clone())].map(|request| request.by(&user).send());
        for answer in join_all(swap).await {
            answer.is_refused(409);
        }
        // One makes room, and all want it, a new account among them.
        let room = json!({"emailAddress": "c@example.com"});
        let swap = [
            api.put(&first, room),
            api.put(&second, a.clone()),
            api.post("/api/accounts", account(a.clone())),
            api.put(&first, json!({"port": 1})),
        ];
        let answers = join_all(swap.map(|request| request.by(&user).send())).await;
        for answer in &answers {
            assert!(matches!(answer.status, 200 | 201 | 409), "{answer:?}");
        }
        // Back to where it began.
        for account in api.get("/api/accounts").by(&user).send().await.body["accounts"].as_array().unwrap() {
            let path = path(account);
            if path != first && path != second {
                assert_eq!(api.delete(&path).by(&user).send().await.status, 200);
            }
        }
        for (path, address) in [(&second, &json!({"emailAddress": "d@example.com"})), (&first, &a), (&second, &b)] {
            let answer = api.put(path, address.clone()).by(&user).send().await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    // Statements that are repeated would hide one from the answers.
    drop(api);
    assert_eq!(deadlocks(&owner).await, 0);
}

/// Has the database give up the first `times` changes of an account as it gives up a transaction for another's sake.
async fn giving_up(times: i32, code: &str) -> (Api, Client) {
    let database = new_database().await;
    let owner = connect(&servers().await.postgres.owner_url(&database)).await;
    owner
        .batch_execute(&format!(
            "create sequence attempts;
             create function give_up() returns trigger language plpgsql security definer as $$
             begin
                 if nextval('attempts') <= {times} then raise exception 'given up' using errcode = '{code}'; end if;
                 return new;
             end $$;
             create trigger give_up before update on email_accounts for each row execute function give_up();"
        ))
        .await
        .unwrap();
    (api_of(&database).await, owner)
}

#[tokio::test]
async fn what_postgresql_gives_up_for_anothers_sake_is_repeated_once_and_then_503() {
    for code in ["40P01", "40001", "42804"] {
        let (api, owner) = giving_up(1, code).await;
        let user = User::new();
        let path = path(&api.create(&user, json!({})).await);
        assert_eq!(api.put(&path, json!({"port": 1, "password": "new"})).by(&user).send().await.status, 200);

        owner.batch_execute("select setval('attempts', 1, false); create or replace function give_up() returns trigger language plpgsql as $$ begin raise exception 'given up for good' using errcode = '40P01'; end $$").await.unwrap();
        for request in [api.put(&path, json!({"port": 2})), api.delete(&path)] {
            let answer = request.by(&user).send().await;
            answer.is_refused(503);
            assert_eq!(answer.header("retry-after"), Some("1"));
            assert!(api.log_of(&answer).await["error"].as_str().unwrap().contains("given up for good"));
        }
        assert_eq!(api.get(&path).by(&user).send().await.body["port"], 1);
    }
}

#[tokio::test]
async fn a_user_has_as_many_accounts_as_are_allowed_and_no_more_also_when_requests_race() {
    let mut env = servers().await.env();
    env.insert("ACCOUNTS_PER_USER", "5".to_owned());
    let api = Api::start_as(env, local::gateway::PayloadVersion::V2, 4).await;
    let create = |user: User, n: usize| {
        api.post("/api/accounts", account(json!({"emailAddress": format!("{n}@example.com")}))).by(&user).send()
    };
    let user = User::new();
    let answers = join_all((0..12).map(|n| create(user, n))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 5);
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        answer.is_refused(409);
        assert!(answer.body["message"].as_str().unwrap().contains("5 accounts"), "{answer:?}");
    }
    // An address that is there already is refused as such: that is how a lost answer is found out.
    let listed = api.get("/api/accounts").by(&user).send().await.body["accounts"][0].clone();
    let again =
        api.post("/api/accounts", account(json!({"emailAddress": listed["emailAddress"]}))).by(&user).send().await;
    assert_eq!(again.body["message"], shared::error::ADDRESS_TAKEN);
    // What is deleted does not count, and nobody counts for another.
    assert_eq!(api.delete(&path(&listed)).by(&user).send().await.status, 200);
    let (one, other) = join(create(user, 20), create(user, 21)).await;
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409]);
    api.create(&user.colleague(), json!({})).await;
}

/// The second one cannot count before the first one has made up its mind.
#[tokio::test]
async fn creates_of_one_user_count_one_after_the_other() {
    let database = new_database().await;
    let postgres = &servers().await.postgres;
    let (first, second) = (connect(&postgres.app_url(&database)).await, connect(&postgres.app_url(&database)).await);
    let owner = connect(&postgres.owner_url(&database)).await;
    let user = User::new();
    let account = |address: &str| {
        format!(
            "select id from insert_account('{}', '{}', gen_random_uuid(), 'x', '{address}', '{address}', 'imap', 'x', 1, 'tls', 'x', true, 300, gen_random_uuid(), 'sha512', repeat('0', 128), repeat('0', 64), 1, null, null, null, null, null, null, null)",
            user.tenant, user.user
        )
    };
    let draft = format!(
        "select id from create_draft('{}', '{}', gen_random_uuid(), null, null, null, '{{}}', '{{}}', 1, null, null) where outcome = 'created'",
        user.tenant, user.user
    );
    let waits = "select exists (select from pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database()))";
    for (sql, other_sql) in [(account("1@example.com"), account("2@example.com")), (draft.clone(), draft)] {
        first.batch_execute("begin").await.unwrap();
        assert_eq!(first.query(&sql, &[]).await.unwrap().len(), 1);
        let mut answered = false;
        let mut creating = Box::pin(second.query(&other_sql, &[]));
        while !answered && !owner.query_one(waits, &[]).await.unwrap().get::<_, bool>(0) {
            answered = (&mut creating).now_or_never().is_some();
        }
        assert!(!answered, "it did not wait: {sql}");
        first.batch_execute("commit").await.unwrap();
        assert!(creating.await.unwrap().is_empty());
    }
}
