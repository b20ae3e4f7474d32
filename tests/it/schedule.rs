//! What the schedule asks of all tenants' rows: who is due, whatever else is in the table; and the purge of what deleted
//! accounts leave behind and of what was destroyed long ago, while workers write.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use local::gateway::PayloadVersion;
use serde_json::{Value, json};
use tokio_postgres::{Client, Row, Transaction};
use uuid::Uuid;

use crate::secrets::{Moto, aws};
use crate::support::{Api, SCHEDULER_DATABASE_URL, Service, User, connect, new_database, servers, somebody_waits};

/// The tables, and whose rows are in them.
async fn count(owner: &Client, table: &str, account: Uuid) -> i64 {
    let sql = format!("select count(*) from {table} where account_id = $1");
    owner.query_one(&sql, &[&account]).await.unwrap().get(0)
}

/// Puts so many messages into an account's outbox, each with a file of its own; returns the ids of those messages.
async fn fill_outbox(owner: &Client, user: &User, account: Uuid, entries: i32) -> Vec<Uuid> {
    let sql = "with entry as (
                   insert into email_outbox (id, tenant_id, user_id, account_id, status, created_at, dated_at, message_id, sender_name,
                       sender_address, content, recipients, uploads)
                   select gen_random_uuid(), $1, $2, $3, 'failed', n, n, n || '@example.com', 'x', 'x@example.com', '{}', '[]',
                       array[gen_random_uuid()]
                   from generate_series(1, $4) n
                   returning id, uploads
               )
               insert into email_uploads (id, tenant_id, user_id, filename, content_type, size, created_at, used_by)
               select uploads[1], $1, $2, 'x', 'x/y', 1, 0, array[id] from entry
               returning used_by[1]";
    let rows = owner.query(sql, &[&user.tenant, &user.user, &account, &entries]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Gives an account two folders, with so many messages in the first, of which a tenth have the second as a label, a
/// destroyed message, and three in its outbox.
async fn fill(owner: &Client, user: &User, account: Uuid, messages: i32) {
    let (folder, label) = (Uuid::new_v4(), Uuid::new_v4());
    for (id, name) in [(folder, "INBOX"), (label, "Sent")] {
        let sql = "insert into email_folders (id, tenant_id, user_id, account_id, wire_name, path, is_selectable,
                       created_number, changed_number) values ($1, $2, $3, $4, $5::text::bytea, $5, true, 0, 0)";
        owner.execute(sql, &[&id, &user.tenant, &user.user, &account, &name]).await.unwrap();
    }
    let sql = "insert into email_messages (id, tenant_id, user_id, account_id, folder_id, identity, thread_id, uid, received_at,
                   size, created_number, changed_number, is_read, is_flagged, is_answered, is_draft, has_attachments,
                   is_readable, subject)
               select gen_random_uuid(), $1, $2, $3, $4, gen_random_uuid(), gen_random_uuid(),
                   case when n % 10 > 0 then n end, n, 1, n, n, false, false, false, false, false, true, 'private'
               from generate_series(1, $5) n";
    owner.execute(sql, &[&user.tenant, &user.user, &account, &folder, &messages]).await.unwrap();
    let sql = "insert into email_labels (tenant_id, user_id, folder_id, message_id, received_at, is_read, is_flagged)
               select tenant_id, user_id, $2, id, received_at, false, false from email_messages
               where folder_id = $1 and uid is null";
    owner.execute(sql, &[&folder, &label]).await.unwrap();
    let sql = "insert into email_destroyed (tenant_id, user_id, number, type, id, account_id, destroyed_at)
               select $1, $2, next_numbers($1, $2, 1), 'message', gen_random_uuid(), $3, epoch_ms()";
    owner.execute(sql, &[&user.tenant, &user.user, &account]).await.unwrap();
    fill_outbox(owner, user, account, 3).await;
}

async fn create(service: &Service, user: &User, address: &str) -> Uuid {
    let created = service.api.create(user, json!({"emailAddress": address})).await;
    created["id"].as_str().unwrap().parse().unwrap()
}

async fn delete(service: &Service, user: &User, account: Uuid) {
    let answer = service.api.delete(&format!("/api/accounts/{account}")).by(user).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn accounts_are_counted_by_state_once_an_hour_and_deleted_ones_are_not() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    for user in [User::new(), User::new()] {
        for (state, enabled) in
            [("connected", true), ("connectError", true), ("connectError", true), ("connected", false)]
        {
            let account = create(&service, &user, &format!("{}@example.com", Uuid::new_v4())).await;
            let sql = "update email_accounts set state = $2, is_enabled = $3, is_sync_enabled = false where id = $1";
            service.owner.execute(sql, &[&account, &state, &enabled]).await.unwrap();
        }
    }
    let expected =
        json!({"new": 0, "connected": 2, "authenticationError": 0, "connectError": 4, "credentialsMissing": 0});
    assert_eq!(service.tick().await["accounts"], expected);
    assert_eq!(service.tick().await["accounts"], Value::Null);
}

const LEFT_BEHIND: [&str; 3] = ["email_folders", "email_messages", "email_outbox"];

#[tokio::test]
async fn what_a_deleted_account_had_is_purged_and_nothing_else() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let users = [User::new(), User::new()];
    let (mut kept, mut gone) = (Vec::new(), Vec::new());
    for user in &users {
        kept.push(create(&service, user, "kept@example.com").await);
        gone.push(create(&service, user, "gone@example.com").await);
    }
    for (index, user) in users.iter().enumerate() {
        fill(&service.owner, user, kept[index], 30).await;
        fill(&service.owner, user, gone[index], 6000).await;
        delete(&service, user, gone[index]).await;
    }
    // As many turns as it takes: each ends after some seconds.
    let (mut accounts, mut rows) = (0, 0);
    loop {
        let turn = service.tick().await;
        let purged = turn["purgedRows"].as_u64().unwrap();
        (accounts, rows) = (accounts + turn["purgedAccounts"].as_u64().unwrap(), rows + purged);
        if purged == 0 {
            break;
        }
    }
    // With each account its two folders, its messages and their labels, and what it had destroyed.
    assert_eq!((accounts, rows), (2, 2 * 6604));
    for user in &users {
        let sql = "select count(*) from email_labels where user_id = $1";
        assert_eq!(service.owner.query_one(sql, &[&user.user]).await.unwrap().get::<_, i64>(0), 3);
    }
    for account in gone {
        for table in LEFT_BEHIND {
            assert_eq!(count(&service.owner, table, account).await, 0, "{table}");
        }
        // Who asks for changes learns of the account.
        assert_eq!(count(&service.owner, "email_destroyed", account).await, 1);
        let sql = "select is_enabled, mail_purged_at is not null from email_accounts where id = $1";
        let row = service.owner.query_one(sql, &[&account]).await.unwrap();
        assert!(!row.get::<_, bool>(0) && row.get::<_, bool>(1));
    }
    for account in kept {
        for (table, left) in LEFT_BEHIND.into_iter().zip([2, 30, 3]).chain([("email_destroyed", 1)]) {
            assert_eq!(count(&service.owner, table, account).await, left, "{table}");
        }
    }
    assert_eq!(service.tick().await["purgedRows"], 0);
}

#[tokio::test]
async fn a_purge_goes_on_where_the_last_one_ended() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let user = User::new();
    let account = create(&service, &user, "gone@example.com").await;
    fill(&service.owner, &user, account, 25).await;
    delete(&service, &user, account).await;
    let scheduler = scheduler(&service.owner).await;
    let purge = async || -> Vec<i32> {
        let row = scheduler.query_one("select * from purge_mail(10)", &[]).await.unwrap();
        ["messages", "folders", "destroyed", "accounts"].map(|name| row.get(name)).to_vec()
    };
    let mut sums = [0; 4];
    let mut batches = 0;
    loop {
        let batch = purge().await;
        assert!(batch.iter().sum::<i32>() <= 10, "{batch:?}");
        sums.iter_mut().zip(&batch).for_each(|(sum, count)| *sum += count);
        if batch.iter().sum::<i32>() < 10 {
            break;
        }
        batches += 1;
    }
    assert_eq!((sums, batches), ([27, 2, 1, 1], 3));
}

/// Files that nothing uses any more, and of all that there are.
async fn released(owner: &Client, user: &User) -> (i64, i64) {
    let sql = "select count(unused_since), count(*) from email_uploads where user_id = $1";
    let row = owner.query_one(sql, &[&user.user]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn what_a_deleted_account_had_to_send_goes_in_turns_and_gives_its_files_back() {
    const AT_ONCE: i32 = 5000;
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let (owner, user) = (&service.owner, User::new());
    let kept = create(&service, &user, "kept@example.com").await;
    let gone = create(&service, &user, "gone@example.com").await;
    let kept_entry = fill_outbox(owner, &user, kept, 1).await[0];
    let entries = fill_outbox(owner, &user, gone, AT_ONCE + 2).await;
    // One file is used by some of these and by one that stays.
    let sql = "insert into email_uploads (id, tenant_id, user_id, filename, content_type, size, created_at, used_by)
               values (gen_random_uuid(), $1, $2, 'x', 'x/y', 1, 0, $3) returning id";
    let used_by = [kept_entry, entries[0], entries[1]];
    let shared: Uuid = owner.query_one(sql, &[&user.tenant, &user.user, &&used_by[..]]).await.unwrap().get(0);
    let sql = "update email_outbox set uploads = uploads || $1::uuid where id = any ($2)";
    owner.execute(sql, &[&shared, &&used_by[..]]).await.unwrap();
    delete(&service, &user, gone).await;
    let is_purged = async || {
        let sql = "select mail_purged_at is not null from email_accounts where id = $1";
        owner.query_one(sql, &[&gone]).await.unwrap().get::<_, bool>(0)
    };
    // What limits count stays for its hour.
    let latest = entries[entries.len() - 1];
    let aged = async |age: i64| {
        let sql = "update email_outbox set created_at = epoch_ms() - $2 where id = $1";
        owner.execute(sql, &[&latest, &age]).await.unwrap();
    };
    aged(0).await;
    let files = i64::from(AT_ONCE) + 4;
    for (left, is_last, purged) in [(2, false, 0), (1, false, 0), (1, false, 0), (0, true, 1), (0, true, 0)] {
        if is_last {
            aged(3_600_001).await;
        }
        assert_eq!(service.tick().await["purgedAccounts"], purged);
        assert_eq!((count(owner, "email_outbox", gone).await, is_purged().await), (left, is_last));
        assert_eq!(released(owner, &user).await, (i64::from(AT_ONCE) + 2 - left, files));
    }
    let sql = "select used_by from email_uploads where id = $1";
    assert_eq!(owner.query_one(sql, &[&shared]).await.unwrap().get::<_, Vec<Uuid>>(0), [kept_entry]);
    assert_eq!(count(owner, "email_outbox", kept).await, 1);
}

#[tokio::test]
async fn what_the_object_store_kept_of_a_deleted_account_is_deleted_and_nothing_else() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let user = User::new();
    let [kept, gone] = ["kept@example.com", "gone@example.com"].map(|address| create(&service, &user, address));
    let (kept, gone) = (kept.await, gone.await);
    let key = |account: Uuid, number: usize| {
        format!("mail/{}/{account}/{}/raw", user.tenant, Uuid::from_u128(number as u128))
    };
    for number in 0..3 {
        service.bucket.put(&key(gone, number), vec![1]).await.unwrap();
    }
    service.bucket.put(&key(kept, 0), vec![1]).await.unwrap();
    delete(&service, &user, gone).await;
    // A request that began before may still write.
    assert_eq!(service.tick().await["purgedObjects"], 0);
    service.owner.execute("update email_unpurged_objects set deleted_at = deleted_at - 60000", &[]).await.unwrap();
    assert_eq!(service.tick().await["purgedObjects"], 3);
    assert_eq!(service.bucket.keys().await.unwrap(), [key(kept, 0)]);
    assert_eq!(count(&service.owner, "email_unpurged_objects", gone).await, 0);
}

#[tokio::test]
async fn deleted_accounts_are_forgotten_when_their_time_has_come_and_no_others() {
    // By default, never.
    for (days, forgotten) in [(None, 0), (Some("0"), 0), (Some("30"), 2)] {
        let more = days.map(|days| ("RETENTION_DAYS", days.to_owned()));
        let service = Service::start(Duration::from_secs(60), more.into_iter().collect()).await;
        let user = User::new();
        let mut accounts = Vec::new();
        for (address, is_deleted, age) in
            [("kept", false, 1000), ("old", true, 31), ("older", true, 1000), ("recent", true, 29)]
        {
            let account = create(&service, &user, &format!("{address}@example.com")).await;
            if is_deleted {
                delete(&service, &user, account).await;
            }
            let sql = "update email_accounts set created_at = 0, updated_at = epoch_ms() - $2::bigint * 24 * 3600000 where id = $1";
            service.owner.execute(sql, &[&account, &i64::from(age)]).await.unwrap();
            accounts.push(account);
        }
        // An account goes after its mail, in the same turn where there is time.
        let turn = service.tick().await;
        assert_eq!(
            (&turn["purgedAccounts"], &turn["forgottenAccounts"]),
            (&json!(3), &json!(forgotten)),
            "{days:?}: {turn}"
        );
        assert_eq!(service.tick().await["forgottenAccounts"], 0);
        let all = "select a.id from email_accounts a join email_credentials c on c.id = a.credential_id order by a.created_at, a.id";
        let mut left: Vec<Uuid> = service.owner.query(all, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        let mut expected = if forgotten == 0 { accounts.clone() } else { vec![accounts[0], accounts[3]] };
        left.sort_unstable();
        expected.sort_unstable();
        assert_eq!(left, expected, "{days:?}");
        let credentials: i64 =
            service.owner.query_one("select count(*) from email_credentials", &[]).await.unwrap().get(0);
        assert_eq!(credentials, expected.len() as i64, "{days:?}");
    }
}

#[tokio::test]
async fn accounts_are_forgotten_in_batches_until_none_is_left() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::from([("RETENTION_DAYS", "30".to_owned())])).await;
    let fill = "with c as (
            insert into email_credentials
            select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'sha512', repeat('0', 128), repeat('0', 64), 0, 0
            from generate_series(1, 2500) returning *
        )
        insert into email_accounts (id, tenant_id, user_id, account_name, email_address, protocol, hostname, port, encryption,
            username, credential_id, is_enabled, created_at, updated_at, mail_purged_at)
        select gen_random_uuid(), tenant_id, user_id, 'x', 'x@example.com', 'imap', 'x', 1, 'tls', 'x', id, false, 0, 0, 0 from c";
    service.owner.batch_execute(fill).await.unwrap();
    let mut forgotten = 0;
    // Five seconds of a turn are enough for all, but on a machine that is busy.
    while forgotten < 2500 {
        let some = service.tick().await["forgottenAccounts"].as_u64().unwrap();
        assert!(some > 0, "{forgotten} are forgotten");
        forgotten += some;
    }
    assert_eq!((forgotten, &service.tick().await["forgottenAccounts"]), (2500, &json!(0)));
}

/// The schedule's login at the database of this connection.
async fn scheduler(owner: &Client) -> Client {
    let database: String = owner.query_one("select current_database()::text", &[]).await.unwrap().get(0);
    connect(&servers().await.postgres.scheduler_url(&database)).await
}

#[tokio::test]
async fn what_was_destroyed_30_days_ago_is_forgotten_and_who_asks_for_it_can_know() {
    let database = new_database().await;
    let owner = connect(&servers().await.postgres.owner_url(&database)).await;
    let user = User::new();
    let day = 24 * 60 * 60 * 1000_i64;
    for age in [40, 31, 29, 0] {
        let sql = "insert into email_destroyed (tenant_id, user_id, number, type, id, account_id, destroyed_at)
                   select $1, $2, next_numbers($1, $2, 1), 'message', gen_random_uuid(), gen_random_uuid(), epoch_ms() - $3";
        owner.execute(sql, &[&user.tenant, &user.user, &(age * day)]).await.unwrap();
    }
    let scheduler = scheduler(&owner).await;
    for (limit, forgotten, left) in [(1, 1_i64, 3_i64), (10, 2, 2), (10, 2, 2)] {
        scheduler.execute("select purge_mail($1)", &[&limit]).await.unwrap();
        let sql = "select last, forgotten, (select count(*) from email_destroyed) from email_change_numbers";
        let row = owner.query_one(sql, &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (4, forgotten, left));
    }
}

/// Rows of a worker's statement that writes folders.
async fn write_folder(worker: &Client, user: &User, account: Uuid, token: i64, name: &str) -> Vec<Row> {
    let sql = "select * from store_folders($1, $2, $3, $4, array[gen_random_uuid()], array[$5::text::bytea], array[$5],
                   array['/'], array[null::text], array[true], array[false])";
    worker.query(sql, &[&user.tenant, &user.user, &account, &token, &name]).await.unwrap()
}

/// Deletes an account as its endpoint does; returns the connection, and how many that were.
async fn disable(app: Client, user: User, account: Uuid) -> (Client, usize) {
    let sql = "select from disable_account($1, $2, $3)";
    let rows = app.query(sql, &[&user.tenant, &user.user, &account]).await.unwrap();
    (app, rows.len())
}

#[tokio::test]
async fn nothing_is_written_after_the_deletion_of_its_account() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let (owner, user) = (&service.owner, User::new());
    let database: String = owner.query_one("select current_database()::text", &[]).await.unwrap().get(0);
    let worker = connect(&servers().await.postgres.mail_url(&database)).await;
    for deletion_first in [false, true] {
        let account = create(&service, &user, "gone@example.com").await;
        owner.execute("update email_accounts set rung_at = 1 where id = $1", &[&account]).await.unwrap();
        let sql = "select outcome, (account).lease_token from begin_sync($1, $2, $3, 60000)";
        let begun = worker.query(sql, &[&user.tenant, &user.user, &account]).await.unwrap();
        assert_eq!(begun[0].get::<_, &str>(0), "begun");
        let token: i64 = begun[0].get(1);
        assert_eq!(write_folder(&worker, &user, account, token, "INBOX").await.len(), 1, "this is how it writes");

        let app = connect(&servers().await.postgres.app_url(&database)).await;
        if deletion_first {
            // The worker's next batch waits for the deletion, and finds that it has no account any more.
            app.batch_execute("begin").await.unwrap();
            let (app, deleted) = disable(app, user, account).await;
            assert_eq!(deleted, 1);
            let other = connect(&servers().await.postgres.mail_url(&database)).await;
            let writing = tokio::spawn(async move { write_folder(&other, &user, account, token, "Late").await.len() });
            somebody_waits(owner).await;
            app.batch_execute("commit").await.unwrap();
            assert_eq!(writing.await.unwrap(), 0);
        } else {
            // The deletion waits for a batch that is under way.
            worker.batch_execute("begin").await.unwrap();
            assert_eq!(write_folder(&worker, &user, account, token, "Sent").await.len(), 2);
            let deleting = tokio::spawn(disable(app, user, account));
            somebody_waits(owner).await;
            worker.batch_execute("commit").await.unwrap();
            assert_eq!(deleting.await.unwrap().1, 1);
            assert_eq!(write_folder(&worker, &user, account, token, "Late").await.len(), 0);
        }
        assert_eq!(service.tick().await["purgedAccounts"], 1);
        assert_eq!(write_folder(&worker, &user, account, token, "Later").await.len(), 0);
        for table in LEFT_BEHIND {
            assert_eq!(count(owner, table, account).await, 0, "{table}");
        }
    }
}

#[tokio::test]
async fn the_schedules_login_may_ask_who_is_due_and_purge_and_nothing_else() {
    let owner = connect(&servers().await.postgres.owner_url("app")).await;
    let sql = "select format('%s %s', lower(privilege), c.oid::regclass)
               from pg_class c, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,TRIGGER}'::text[]) privilege
               where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v')
                   and (has_table_privilege('email_service_scheduler', c.oid, privilege)
                       or privilege in ('SELECT', 'INSERT', 'UPDATE')
                       and has_any_column_privilege('email_service_scheduler', c.oid, privilege))
               union all
               select format('execute %s', p.oid::regprocedure) from pg_proc p
               where p.pronamespace = 'public'::regnamespace and p.prosecdef
                   and has_function_privilege('email_service_scheduler', p.oid, 'execute')
               order by 1";
    let may: Vec<String> = owner.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let wanted = [
        "execute accounts_with_objects(bigint,integer)",
        "execute claim_due(integer,bigint)",
        "execute claim_due_outgoing(integer,bigint)",
        "execute count_account_states()",
        "execute forget_objects(uuid)",
        "execute purge_accounts(bigint,integer)",
        "execute purge_idempotency_keys(integer)",
        "execute purge_mail(integer)",
        "execute purge_uploads(uuid[])",
        "execute release_files(integer)",
        "execute uploads_to_purge(integer)",
        "select schema_migrations",
    ];
    assert_eq!(may, wanted);
    // What they return of other tenants' rows: ids and times, and numbers.
    let sql = "select pg_get_function_result(oid), prosecdef, proconfig, pg_get_userbyid(proowner),
                   has_function_privilege('email_service_app', oid, 'execute')
                   or has_function_privilege('email_service_mail', oid, 'execute')
               from pg_proc where proname in ('claim_due', 'count_account_states', 'purge_accounts', 'purge_idempotency_keys', 'purge_mail', 'purge_uploads', 'release_files', 'uploads_to_purge') order by proname";
    let rows = owner.query(sql, &[]).await.unwrap();
    let told: Vec<_> = rows.iter().map(|row| (row.get::<_, &str>(0), row.get::<_, &str>(3))).collect();
    let expected = [
        ("TABLE(tenant_id uuid, user_id uuid, account_id uuid, due_at bigint)", "email_service_clock"),
        ("TABLE(state text, accounts bigint)", "email_service_clock"),
        ("bigint", "email_service_janitor"),
        ("integer", "email_service_janitor"),
        ("TABLE(messages integer, folders integer, destroyed integer, accounts integer)", "email_service_janitor"),
        ("integer", "email_service_janitor"),
        ("integer", "email_service_janitor"),
        ("TABLE(tenant_id uuid, user_id uuid, id uuid)", "email_service_janitor"),
    ];
    assert_eq!(told, expected);
    for row in rows {
        assert!(row.get::<_, bool>(1) && !row.get::<_, bool>(4), "{row:?}");
        assert_eq!(row.get::<_, Vec<&str>>(2), ["search_path=\"\""]);
    }
    let sql = "select rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, rolinherit,
                   exists (select from pg_auth_members where member = r.oid),
                   exists (select from pg_shdepend where refobjid = r.oid and deptype = 'o')
               from pg_roles r where rolname = 'email_service_scheduler'";
    let row = owner.query_one(sql, &[]).await.unwrap();
    assert!((0..8).all(|flag| !row.get::<_, bool>(flag)), "{row:?}");
}

#[tokio::test]
async fn the_schedule_refuses_the_logins_of_others() {
    let postgres = &servers().await.postgres;
    for (url, reason) in [
        (postgres.mail_url("app"), "email_service_mail may read sealed secrets"),
        (postgres.owner_url("app"), "row-level security does not bind postgres"),
    ] {
        let more = BTreeMap::from([(SCHEDULER_DATABASE_URL, url)]);
        let service = Service::start(Duration::from_secs(60), more).await;
        let failed: Value = service.sources.tick("schedule-work").await.unwrap().unwrap_err();
        assert!(service.api.log().contains(reason), "{failed}: {}", service.api.log());
    }
}

/// How many accounts this connection has read in scans of the table, fetched by an index, and updated.
async fn rows_touched(turn: &Transaction<'_>) -> [i64; 3] {
    let sql =
        "select seq_tup_read, idx_tup_fetch, n_tup_upd from pg_stat_xact_user_tables where relname = 'email_accounts'";
    let row = turn.query_one(sql, &[]).await.unwrap();
    [0, 1, 2].map(|column| row.get(column))
}

/// Accounts in the table of the test below; the benchmark has a million.
const ACCOUNTS: i32 = 20_000;

#[tokio::test]
async fn who_is_due_is_found_without_reading_the_others() {
    let database = new_database().await;
    let mut owner = connect(&servers().await.postgres.owner_url(&database)).await;
    // One in a hundred is due. Without triggers, which check that there are credentials.
    let fill = format!(
        "set session_replication_role = replica;
         insert into email_accounts (id, tenant_id, user_id, account_name, email_address, address_key, protocol, hostname,
             port, encryption, username, credential_id, created_at, updated_at, next_sync_at)
         select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'x', n || '@example.com', n || '@example.com',
             'imap', 'x', 1, 'tls', 'x', gen_random_uuid(), 0, 0, epoch_ms() + case when n % 100 = 0 then -n else 3600000 end
         from generate_series(1, {ACCOUNTS}) n;
         reset session_replication_role;
         analyze email_accounts"
    );
    owner.batch_execute(&fill).await.unwrap();
    let due = i64::from(ACCOUNTS / 100);
    let (mut claimed, mut last) = (0, -1);
    // Often enough for plans that know no parameters, and twice more than there is.
    for _ in 0..due / 20 + 2 {
        let turn = owner.transaction().await.unwrap();
        let before = rows_touched(&turn).await;
        turn.batch_execute("set local role email_service_scheduler").await.unwrap();
        let sql = "select count(*), coalesce(max(due_at), 0) from claim_due(20, 300000)";
        let row = turn.query_one(sql, &[]).await.unwrap();
        let count: i64 = row.get(0);
        // In the order of their turns.
        assert!(count == 0 || row.get::<_, i64>(1) > last, "{row:?}");
        (claimed, last) = (claimed + count, last.max(row.get(1)));
        turn.batch_execute("reset role").await.unwrap();
        let after = rows_touched(&turn).await;
        let [scanned, fetched, updated] = [0, 1, 2].map(|kind| after[kind] - before[kind]);
        assert_eq!((scanned, updated), (0, count));
        // Each is found by its time, and again by its id. Where nobody is due, nobody is looked at.
        assert!(fetched <= 3 * count, "{fetched} of {count}");
        turn.commit().await.unwrap();
    }
    assert_eq!(claimed, due);
}

#[tokio::test]
async fn two_turns_at_once_share_who_is_due() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let user = User::new();
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(create(&service, &user, &format!("{n}@example.com")).await);
    }
    service.make_due(&ids, 60).await;
    let (one, other) = (scheduler(&service.owner).await, scheduler(&service.owner).await);
    let claim = async |client: &Client| -> Vec<Uuid> {
        let rows = client.query("select account_id from claim_due(3, 300000)", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    one.batch_execute("begin").await.unwrap();
    let mut claimed = claim(&one).await;
    assert_eq!(claimed.len(), 3);
    // It waits for nobody.
    claimed.extend(claim(&other).await);
    one.batch_execute("commit").await.unwrap();
    assert_eq!(claim(&other).await, Vec::<Uuid>::new());
    claimed.sort_unstable();
    ids.sort_unstable();
    assert_eq!(claimed, ids);
}

#[tokio::test]
async fn the_schedules_login_comes_from_a_secret_of_its_own_and_is_read_again() {
    let (database, moto) = (new_database().await, Moto::start().await);
    let url = servers().await.postgres.scheduler_url(&database);
    let (role, rest) = url.strip_prefix("postgres://").unwrap().split_once(':').unwrap();
    let (password, place) = rest.split_once('@').unwrap();
    let secret = |password: &str| json!({"username": role, "password": password});
    let arn = moto.create("scheduler", &secret("of before")).await;
    let mut env = servers().await.env();
    env.extend(aws(&moto));
    env.insert(SCHEDULER_DATABASE_URL, format!("postgres://{role}@{place}"));
    env.insert("scheduler: SCHEDULER_SECRET_ARN", arn.clone());
    let api = Api::start_as(env, PayloadVersion::V2, 1).await;
    let turn = async || api.gateway.invoke("schedule-work", json!({})).await.unwrap();
    assert!(turn().await.is_err(), "{}", api.log());
    moto.put(&arn, &secret(password)).await;
    let started = Instant::now();
    // It is read every three seconds at most.
    while turn().await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(20), "{}", api.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(!api.log().contains(password));
}
