//! The fence between tenants and users: both locks together over HTTP, and each lock alone in the database.

use std::collections::BTreeSet;

use serde_json::json;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{
    Api, MAIL_DATABASE_URL, READER_DATABASE_URL, Servers, User, account, api, connect, folder_row, logins, message_row,
    new_database, owner, servers, store, store_label,
};

const TABLES: [&str; 14] = [
    "email_accounts",
    "email_change_numbers",
    "email_credentials",
    "email_destroyed",
    "email_drafts",
    "email_folders",
    "email_hidden",
    "email_idempotency_keys",
    "email_labels",
    "email_messages",
    "email_outbox",
    "email_unpurged_objects",
    "email_uploads",
    "oauth2_authorizations",
];

#[tokio::test]
async fn list_hides_the_accounts_of_other_users_and_other_tenants() {
    let (api, user) = (api().await, User::new());
    api.create(&user, json!({})).await;
    for other in strangers(&user) {
        assert!(api.addresses(&other).await.is_empty());
    }
    assert_eq!(api.addresses(&user).await.len(), 1);
}

/// A colleague, the same user id elsewhere, and somebody wholly different.
fn strangers(user: &User) -> [User; 3] {
    [user.colleague(), User { user: user.user, ..User::new() }, User::new()]
}

#[tokio::test]
async fn get_update_and_delete_of_a_foreign_account_are_forbidden_also_for_admins_and_logged() {
    let (api, user) = (api().await, User::new());
    let created = api.create(&user, json!({})).await;
    let path = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    for stranger in strangers(&user) {
        for role in ["user", "admin"] {
            let token = stranger.token_with(json!({"role": role}));
            for request in [
                api.get(&path),
                api.put(&path, json!({"accountName": "Mine now", "password": "stolen"})),
                api.put(&path, json!({})),
                api.put(&path, json!({"isEnabled": false})),
                api.delete(&path),
            ] {
                let answer = request.bearer(&token).send().await;
                answer.is_refused(403);
                let text = answer.body.to_string();
                assert!(!text.contains(&user.tenant.to_string()) && !text.contains(&user.user.to_string()), "{text}");
            }
        }
        let blocked = api
            .log_line(|line| {
                line["message"] == "cross_tenant_access_blocked"
                    && line["userId"] == json!(stranger.user)
                    && line["tenantId"] == json!(stranger.tenant)
            })
            .await;
        assert_eq!(blocked["level"], "WARN");
        assert_eq!((&blocked["ownerTenantId"], &blocked["ownerUserId"]), (&json!(user.tenant), &json!(user.user)));
    }
    assert_eq!(api.get(&path).by(&user).send().await.body, created, "nothing changed");
    // A deleted account is nobody's: strangers do not even learn that it was there.
    api.delete(&path).by(&user).send().await;
    for stranger in strangers(&user) {
        api.get(&path).by(&stranger).send().await.is_refused(404);
    }
}

#[tokio::test]
async fn every_table_with_a_tenant_has_row_level_security_enabled_and_forced_for_reads_and_writes() {
    let rows = owner()
        .await
        .query(
            "select c.relname, c.relrowsecurity, c.relforcerowsecurity, pg_get_userbyid(c.relowner),
                    bool_or(p.polcmd = '*' and p.polqual is not null and p.polwithcheck is not null and p.polroles = '{0}')
             from pg_attribute a join pg_class c on c.oid = a.attrelid left join pg_policy p on p.polrelid = c.oid
             where a.attname = 'tenant_id' and c.relkind in ('r', 'p') group by c.oid order by 1",
            &[],
        )
        .await
        .unwrap();
    let tables: Vec<_> = rows.iter().map(|row| row.get::<_, &str>(0)).collect();
    assert_eq!(tables, TABLES);
    for row in &rows {
        assert!(row.get(1) && row.get(2) && row.get(4), "{row:?}");
        assert_eq!(row.get::<_, &str>(3), "email_service_owner");
    }
}

#[tokio::test]
async fn the_functions_role_owns_nothing_bypasses_nothing_and_creates_nothing() {
    let servers = servers().await;
    let client = owner().await;
    for role in ["email_service_app", "email_service_reader"] {
        let flags = "select rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, rolinherit from pg_roles where rolname = $1";
        let row = client.query_one(flags, &[&role]).await.unwrap();
        assert!((0..6).all(|flag| !row.get::<_, bool>(flag)), "{row:?}");
        let owned = "select count(*) from pg_shdepend where refobjid = $1::text::regrole and deptype = 'o'";
        assert_eq!(client.query_one(owned, &[&role]).await.unwrap().get::<_, i64>(0), 0);
        let member = "select count(*) from pg_auth_members where member = $1::text::regrole";
        assert_eq!(client.query_one(member, &[&role]).await.unwrap().get::<_, i64>(0), 0);
    }

    let app = connect(&servers.postgres.app_url("app")).await;
    for statement in [
        "create table t (i int)",
        "create temporary table t (i int)",
        "create schema s",
        "create function f() returns int language sql as 'select 1'",
        "alter table email_accounts disable row level security",
        "drop policy email_accounts_scope on email_accounts",
        "truncate email_accounts",
        "delete from email_accounts",
        "delete from email_credentials",
        "select password_hash from email_credentials",
        "select salt from email_credentials",
        "select * from email_credentials",
        "select c from email_credentials c",
        "update email_credentials set salt = salt returning salt",
        "update email_credentials set password_hash = salt",
        "update email_accounts set credential_id = gen_random_uuid()",
        "update email_accounts set is_syncing = true",
        "select purge_accounts(0, 1)",
        "select accounts_to_key('00000000-0000-0000-0000-000000000000', 1)",
        "select set_address_keys('{}', '{}')",
        "update email_accounts set user_id = gen_random_uuid()",
        "update email_accounts set synced_with = 'x'",
        "update email_accounts set changed_number = 0",
        "update email_folders set total = 0",
        "update email_messages set is_read = true",
        "insert into email_folders (id) values (gen_random_uuid())",
        "insert into email_messages (id) values (gen_random_uuid())",
        "insert into email_labels (folder_id) values (gen_random_uuid())",
        "update email_labels set received_at = 0",
        "delete from email_folders",
        "delete from email_labels",
        "delete from email_messages",
        "delete from email_destroyed",
        "update email_idempotency_keys set user_id = gen_random_uuid()",
        "select purge_idempotency_keys(1)",
        "update email_drafts set user_id = gen_random_uuid()",
        "update email_uploads set user_id = gen_random_uuid()",
        "update email_uploads set size = 0",
        "delete from email_uploads",
        "select * from uploads_to_purge(1)",
        "select purge_uploads('{}')",
        "select release_files(1)",
        "update email_destroyed set number = 0",
        "select claim_due(1, 1)",
        "select claim_due_outgoing(1, 1)",
        "select count_account_states()",
        "delete from email_outbox",
        "update email_outbox set content = '{}'",
        "update email_outbox set recipients = '[]'",
        "update email_outbox set account_id = gen_random_uuid()",
        "update oauth2_authorizations set user_id = gen_random_uuid()",
        "update oauth2_authorizations set account_id = gen_random_uuid()",
        "update oauth2_authorizations set expires_at = expires_at + 1",
        "delete from oauth2_authorizations",
        "update schema_migrations set version = 99",
        "set role email_service_owner",
        "set role email_service_probe",
        "set role email_service_janitor",
        "set role email_service_clock",
        "copy email_accounts to program 'true'",
        "create role intruder",
        "alter role email_service_app bypassrls",
    ] {
        assert!(app.batch_execute(statement).await.is_err(), "{statement}");
    }
}

#[tokio::test]
async fn a_function_refuses_to_start_with_a_role_that_the_policies_do_not_hold() {
    let servers = Servers::start().await;
    let owner = connect(&servers.postgres.owner_url("app")).await;
    let owner_url = servers.postgres.owner_url("app");
    let url = format!("postgres://powerful:secret@{}", owner_url.split_once('@').unwrap().1);
    for power in [
        "create role powerful login password 'secret' superuser",
        "alter role powerful nosuperuser bypassrls",
        "alter role powerful nobypassrls inherit; grant email_service_owner to powerful",
        "alter role powerful noinherit",
        "revoke email_service_owner from powerful; grant truncate on email_credentials to powerful",
        "revoke truncate on email_credentials from powerful; alter table email_accounts owner to powerful",
        "alter table email_accounts owner to email_service_owner; grant email_service_probe to powerful",
        "revoke email_service_probe from powerful; grant email_service_janitor to powerful",
        "revoke email_service_janitor from powerful; grant email_service_clock to powerful",
        // By way of another role, and of one that could only be taken on.
        "revoke email_service_clock from powerful; create role middle; grant email_service_probe to middle; grant middle to powerful",
        "alter role middle bypassrls; revoke email_service_probe from middle",
        "alter role middle nobypassrls superuser",
        "alter role middle nosuperuser; create policy report on email_credentials to middle using (true)",
        "drop policy report on email_credentials; alter table email_credentials disable row level security",
    ] {
        owner.batch_execute(power).await.unwrap();
        let mut env = servers.env();
        env.insert(READER_DATABASE_URL, url.clone());
        let api = Api::start(env).await;
        assert_eq!(api.get("/api/accounts").by(&User::new()).status().await, 500, "{power}");
        assert!(api.log().contains("row-level security does not bind powerful"), "{power}: {}", api.log());
    }
    // Nothing of all that: the functions take it, and it reaches no row and no function of ours.
    owner
        .batch_execute("alter table email_credentials enable row level security; grant pg_monitor to powerful")
        .await
        .unwrap();
    let mut env = servers.env();
    env.insert(READER_DATABASE_URL, url);
    let api = Api::start(env).await;
    api.get("/api/accounts").by(&User::new()).send().await.is_refused(500);
    assert!(api.log().contains("permission denied"), "{}", api.log());
}

/// Of each table that has a tenant.
#[tokio::test]
async fn a_login_is_not_bound_where_one_table_is_open_to_it() {
    let servers = Servers::start().await;
    let owner = connect(&servers.postgres.owner_url("app")).await;
    let tables = "select a.attrelid::regclass::text from pg_attribute a join pg_class c on c.oid = a.attrelid
                  where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attname = 'tenant_id'";
    let tables: Vec<String> = owner.query(tables, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(tables.len() >= 14, "{tables:?}");
    for (table, login) in tables.iter().flat_map(|table| ["app", "mail", "reader"].map(|login| (table, login))) {
        for (power, is_bound) in [
            ("select 1".to_owned(), true),
            (format!("alter table {table} disable row level security"), false),
            (format!("grant truncate on {table} to email_service_{login}"), false),
            (
                format!(
                    "create role middle; grant middle to email_service_{login}; create policy report on {table} to middle using (true)"
                ),
                false,
            ),
        ] {
            owner.batch_execute(&format!("begin; {power}; set local role email_service_{login}")).await.unwrap();
            let row = owner.query_one("select is_bound from role_powers()", &[]).await.unwrap();
            owner.batch_execute("rollback").await.unwrap();
            assert_eq!(row.get::<_, bool>(0), is_bound, "{login}: {power}");
        }
    }
}

/// The context of a transaction: whose rows its policies allow.
#[derive(Debug, Clone, Copy)]
enum Context {
    Of(User),
    None,
}

async fn begin(client: &Client, context: Context) {
    client.batch_execute("begin").await.unwrap();
    if let Context::Of(User { tenant, user }) = context {
        let set = "select set_config('app.tenant_id', $1, true), set_config('app.user_id', $2, true)";
        client.query_one(set, &[&tenant.to_string(), &user.to_string()]).await.unwrap();
    }
}

/// One user's row in a table, and how statements name it, change it and make another like it.
struct Target {
    table: &'static str,
    row: String,
    change: &'static str,
    columns: &'static str,
    values: String,
}

/// What the policies alone let through of one user's rows: statements without any filter of their own, each table, each
/// command, each identity. Returns what was let through and should not have been, or the other way round.
async fn leaks(database: &str) -> Vec<String> {
    let servers = servers().await;
    let mut env = servers.env();
    env.extend(logins(&servers.postgres, database));
    let api = Api::start(env).await;
    let user = User::new();
    let created = api.create(&user, json!({})).await;
    let client = connect(&servers.postgres.owner_url(database)).await;
    let folder = store(&client, "email_folders", folder_row(&created, "INBOX", json!({}))).await;
    let message = store(&client, "email_messages", message_row(&created, folder, json!({}))).await;
    let (tenant_id, user_id, new) = (user.tenant, user.user, Uuid::now_v7());
    store_label(&client, &created, folder, message).await;
    let destroyed = json!({
        "tenant_id": tenant_id, "user_id": user_id, "number": 1, "type": "message", "id": new,
        "account_id": created["id"], "destroyed_at": 0
    });
    store(&client, "email_destroyed", destroyed).await;
    let outgoing = json!({
        "id": new, "tenant_id": tenant_id, "user_id": user_id, "account_id": created["id"], "status": "queued", "created_at": 0,
        "dated_at": 0, "message_id": "x", "sender_name": "x", "sender_address": "x", "content": "{}", "recipients": "[]",
        "attempts": 0, "copy": "none", "looks": 0, "deaths": 0, "lease_token": 0, "doubtful": [], "uploads": [],
        "original_references": []
    });
    store(&client, "email_outbox", outgoing).await;
    let unpurged = format!("insert into email_unpurged_objects values ('{new}', '{tenant_id}', '{user_id}', 0)");
    client.batch_execute(&unpurged).await.unwrap();
    let keep = "insert into email_idempotency_keys values ($1, $2, decode(repeat('ab', 32), 'hex'), decode(repeat('cd', 32), 'hex'), 'x', null, 0)";
    client.execute(keep, &[&tenant_id, &user_id]).await.unwrap();
    let (draft, upload) = (Uuid::now_v7(), Uuid::now_v7());
    let write = "insert into email_drafts (id, tenant_id, user_id, content, created_at, updated_at) values ($3, $1, $2, '{}', 0, 0)";
    client.execute(write, &[&tenant_id, &user_id, &draft]).await.unwrap();
    let put =
        "insert into email_uploads (id, tenant_id, user_id, filename, content_type, size, created_at, unused_since)
               values ($3, $1, $2, 'x', 'x/y', 0, 0, 0)";
    client.execute(put, &[&tenant_id, &user_id, &upload]).await.unwrap();
    let hidden = format!(
        "insert into email_hidden values ('{tenant_id}', '{user_id}', '{}', '{new}')",
        created["id"].as_str().unwrap()
    );
    client.batch_execute(&hidden).await.unwrap();
    let [account, credential] = ["id", "credentialId"].map(|name| created[name].as_str().unwrap());
    let by_id = |id: &str| format!("id = '{id}'");
    let target = |table, row, change, columns, values| Target { table, row, change, columns, values };
    let targets = [
        target(
            "email_accounts",
            by_id(account),
            "updated_at = updated_at + 1",
            "id, account_name, email_address, protocol, hostname, port, encryption, username, credential_id, created_at, updated_at",
            format!("'{new}', 'x', 'x@example.com', 'imap', 'x', 1, 'tls', 'x', '{credential}', 0, 0"),
        ),
        target("email_change_numbers", format!("user_id = '{user_id}'"), "last = last + 1", "last", "0".into()),
        target(
            "email_credentials",
            by_id(credential),
            "updated_at = updated_at + 1",
            "id, algorithm, password_hash, salt, created_at, updated_at",
            format!("'{new}', 'sha512', repeat('0', 128), repeat('0', 64), 0, 0"),
        ),
        target(
            "email_destroyed",
            by_id(&new.to_string()),
            "destroyed_at = 1",
            "number, type, id, account_id, destroyed_at",
            format!("2, 'folder', '{new}', '{account}', 0"),
        ),
        target(
            "email_drafts",
            by_id(&draft.to_string()),
            "version = version + 1",
            "id, content, created_at, updated_at",
            format!("'{new}', '{{}}', 0, 0"),
        ),
        target(
            "email_folders",
            by_id(&folder.to_string()),
            "total = total + 1",
            "id, account_id, wire_name, path, is_selectable, created_number, changed_number",
            format!("'{new}', '{account}', 'x', 'x', true, 0, 0"),
        ),
        target(
            "email_hidden",
            format!("account_id = '{account}'"),
            "identity = identity",
            "account_id, identity",
            format!("'{new}', '{account}'"),
        ),
        target(
            "email_idempotency_keys",
            "key_hash = decode(repeat('ab', 32), 'hex')".into(),
            "outcome = 'y'",
            "key_hash, fingerprint, created_at",
            "decode(repeat('ef', 32), 'hex'), decode(repeat('cd', 32), 'hex'), 0".into(),
        ),
        target(
            "email_labels",
            format!("message_id = '{message}'"),
            "received_at = 1",
            "folder_id, message_id, received_at, is_read, is_flagged",
            format!("'{new}', '{new}', 0, true, true"),
        ),
        target(
            "email_messages",
            by_id(&message.to_string()),
            "is_read = true",
            "id, account_id, folder_id, identity, thread_id, received_at, size, created_number, changed_number, is_read, is_flagged, is_answered, is_draft, has_attachments, is_readable, subject",
            format!(
                "'{new}', '{account}', '{folder}', '{new}', '{new}', 0, 0, 0, 0, true, true, true, true, true, true, ''"
            ),
        ),
        target(
            "email_outbox",
            by_id(&new.to_string()),
            "looks = 1",
            "id, account_id, status, created_at, dated_at, message_id, sender_name, sender_address, content, recipients",
            format!("gen_random_uuid(), '{account}', 'queued', 0, 0, 'x', 'x', 'x', '{{}}', '[]'"),
        ),
        target(
            "email_unpurged_objects",
            format!("account_id = '{new}'"),
            "deleted_at = 1",
            "account_id, deleted_at",
            "gen_random_uuid(), 0".into(),
        ),
        target(
            "email_uploads",
            by_id(&upload.to_string()),
            "unused_since = 1",
            "id, filename, content_type, size, created_at, unused_since",
            format!("'{new}', 'x', 'x/y', 0, 0, 0"),
        ),
        target(
            "oauth2_authorizations",
            "state_hash = decode(repeat('ab', 32), 'hex')".into(),
            "lacks_consent = true",
            "state_hash, provider, redirect_uri, created_at, expires_at",
            "decode(repeat('ef', 32), 'hex'), 'x', 'x', 0, 0".into(),
        ),
    ];
    assert_eq!(targets.each_ref().map(|target| target.table), TABLES);
    let app = connect(&servers.postgres.app_url(database)).await;
    let begin_sign_in = "select start_authorization($1, $2, decode(repeat('ab', 32), 'hex'), decode(repeat('cd', 32), 'hex'), 'google', 'https://x', null, null, 60000)";
    app.execute(begin_sign_in, &[&user.tenant, &user.user]).await.unwrap();
    let mut leaks = Vec::new();
    let [colleague, elsewhere, stranger] = strangers(&user);
    for (who, context, allowed) in [
        ("owner", Context::Of(user), true),
        ("colleague", Context::Of(colleague), false),
        ("same user id in another tenant", Context::Of(elsewhere), false),
        ("stranger", Context::Of(stranger), false),
        ("no context", Context::None, false),
    ] {
        for Target { table, row, change, columns, values } in &targets {
            for (command, statement) in [
                ("select", format!("select from {table} where {row}")),
                ("select all", format!("select from {table} where tenant_id = '{tenant_id}'")),
                ("update", format!("update {table} set {change} where {row}")),
                (
                    "insert",
                    format!(
                        "insert into {table} (tenant_id, user_id, {columns}) values ('{tenant_id}', '{user_id}', {values})"
                    ),
                ),
                // The role has no right to delete, and to more on some tables; the policy must hold without that, so it
                // is granted here.
                ("delete", format!("delete from {table} where {row}")),
            ] {
                begin(&app, context).await;
                let touched = match app.execute(&statement, &[]).await {
                    Ok(rows) => rows > 0,
                    // A violated policy and a missing right have one code; a constraint is only reached past the policy.
                    Err(error) => error.code() != Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE),
                };
                app.batch_execute("rollback").await.unwrap();
                if touched != allowed {
                    leaks.push(format!("{command} on {table} by {who}: {touched}"));
                }
            }
        }
    }
    leaks
}

async fn database_with_more_granted() -> (String, Client) {
    let database = new_database().await;
    let client = connect(&servers().await.postgres.owner_url(&database)).await;
    client
        .batch_execute(
            "grant delete on email_accounts, email_credentials, email_uploads, oauth2_authorizations to email_service_app;
             grant select, insert, update, delete on email_change_numbers, email_destroyed, email_folders, email_hidden, email_labels,
                 email_messages, email_outbox, email_unpurged_objects to email_service_app",
        )
        .await
        .unwrap();
    (database, client)
}

#[tokio::test]
async fn the_policies_alone_hold_without_any_filter_in_the_statement() {
    let (database, _) = database_with_more_granted().await;
    assert_eq!(leaks(&database).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_matrix_goes_red_when_a_policy_is_missing() {
    for table in TABLES {
        let (database, client) = database_with_more_granted().await;
        // Accounts and messages take a number, and so their policy holds for them as well.
        let takes_numbers = ["email_accounts", "email_messages", "email_outbox"].contains(&table);
        let opened = if takes_numbers { vec![table, "email_change_numbers"] } else { vec![table] };
        for table in opened {
            client
                .batch_execute(&format!(
                    "drop policy {table}_scope on {table}; create policy open on {table} using (true)"
                ))
                .await
                .unwrap();
        }
        let leaks = leaks(&database).await;
        for command in ["select", "select all", "update", "insert", "delete"] {
            for who in ["colleague", "same user id in another tenant", "stranger", "no context"] {
                let expected = format!("{command} on {table} by {who}: true");
                assert!(leaks.contains(&expected), "not noticed: {expected}");
            }
        }
    }
}

#[tokio::test]
async fn the_filters_alone_hold_when_the_policies_show_everything() {
    let database = new_database().await;
    let servers = servers().await;
    let client = connect(&servers.postgres.owner_url(&database)).await;
    for table in TABLES {
        client.batch_execute(&format!("create policy everything on {table} using (true)")).await.unwrap();
    }
    let mut env = servers.env();
    env.extend(logins(&servers.postgres, &database));
    let (api, user) = (Api::start(env).await, User::new());
    let created = api.create(&user, json!({})).await;
    let path = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let folder = store(&client, "email_folders", folder_row(&created, "INBOX", json!({"role": "inbox"}))).await;
    let message = store(&client, "email_messages", message_row(&created, folder, json!({}))).await;
    let label = folder_row(&created, "Work", json!({"is_label": true}));
    let label = store(&client, "email_folders", label).await;
    store_label(&client, &created, label, message).await;
    let hash = "select password_hash from email_credentials";
    let before: String = client.query_one(hash, &[]).await.unwrap().get(0);
    for stranger in strangers(&user) {
        assert!(api.addresses(&stranger).await.is_empty());
        api.get(&path).by(&stranger).send().await.is_refused(403);
        api.put(&path, json!({"port": 1, "password": "stolen"})).by(&stranger).send().await.is_refused(403);
        api.delete(&path).by(&stranger).send().await.is_refused(403);
        for (method, end) in [("POST", "sync"), ("GET", "sync"), ("DELETE", "sync"), ("GET", "folders")] {
            api.request(method, &format!("{path}/{end}")).by(&stranger).send().await.is_refused(403);
        }
        for query in ["", "?role=inbox", "?isRead=false", &format!("?folderId={folder}"), &format!("?folderId={label}")]
        {
            let found = api.get(&format!("/api/messages{query}")).by(&stranger).send().await;
            assert_eq!((found.status, found.body), (200, json!({"messages": [], "nextCursor": null})), "{query}");
        }
    }
    // Not through the API: that refuses a cursor which is not the stranger's own.
    let app = connect(&servers.postgres.app_url(&database)).await;
    let changes = "select count(number) from list_changes($1, $2, 0, 0, 100)";
    let outgoing =
        "insert into email_outbox (id, tenant_id, user_id, account_id, status, created_at, dated_at, message_id, sender_name,
             sender_address, content, recipients)
         values (gen_random_uuid(), $1, $2, $3, 'sent', 0, 0, 'm', 'n', 'a', '{}', '[]')";
    let id: Uuid = created["id"].as_str().unwrap().parse().unwrap();
    client.execute(outgoing, &[&user.tenant, &user.user, &id]).await.unwrap();
    client
        .batch_execute("update email_folders set changed_number = 1; update email_messages set changed_number = 1")
        .await
        .unwrap();
    for (caller, expected) in strangers(&user).into_iter().map(|stranger| (stranger, 0)).chain([(user, 5)]) {
        let row = app.query_one(changes, &[&caller.tenant, &caller.user]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), expected);
    }
    let found = api.get("/api/messages").by(&user).send().await;
    assert_eq!(found.body["messages"][0]["folderId"], json!(label));
    assert_eq!(found.body["messages"].as_array().unwrap().len(), 1);
    assert_eq!(api.get(&path).by(&user).send().await.body, created);
    assert_eq!(client.query_one(hash, &[]).await.unwrap().get::<_, String>(0), before);

    // An answer that somebody else's key has kept.
    let own =
        || api.post("/api/accounts", account(json!({"emailAddress": "k@example.com"}))).header("idempotency-key", "k");
    let first = own().by(&user).send().await.body;
    for stranger in strangers(&user) {
        let answer = own().by(&stranger).send().await;
        assert!(
            answer.status == 201 && answer.body["id"] != first["id"] && answer.header("idempotency-replayed").is_none()
        );
    }
    assert_eq!(own().by(&user).send().await.body, first);

    // A sign-in that somebody else has begun; and a reconnection of somebody else's account.
    let start = "select * from start_authorization($1, $2, decode(repeat($3, 32), 'hex'), decode(repeat('cd', 32), 'hex'), 'google', 'https://x', $4, null, 60000)";
    let no_account: Option<Uuid> = None;
    app.query_one(start, &[&user.tenant, &user.user, &"ab", &no_account]).await.unwrap();
    let take = "select * from take_authorization($1, $2, decode(repeat('ab', 32), 'hex'))";
    let note = "select note_lack_of_consent($1, $2, decode(repeat('ab', 32), 'hex'))";
    let reconnect = "select * from reconnect_account($1, $2, $3, 'google', $4, 'x', '{}', 'x', 1, 'tls', null, null, null, 'k', 'x', 'x', 1)";
    let id: Uuid = created["id"].as_str().unwrap().parse().unwrap();
    let address = created["emailAddress"].as_str().unwrap();
    for stranger in strangers(&user) {
        assert!(app.query(take, &[&stranger.tenant, &stranger.user]).await.unwrap().is_empty());
        app.execute(note, &[&stranger.tenant, &stranger.user]).await.unwrap();
        assert!(app.query(start, &[&stranger.tenant, &stranger.user, &"ef", &Some(id)]).await.unwrap().is_empty());
        let found = app.query(reconnect, &[&stranger.tenant, &stranger.user, &id, &address]).await.unwrap();
        assert!(found.is_empty());
    }
    assert!(!client.query_one("select lacks_consent from oauth2_authorizations", &[]).await.unwrap().get::<_, bool>(0));
    assert_eq!(app.query(take, &[&user.tenant, &user.user]).await.unwrap().len(), 1);
    assert!(app.query(take, &[&user.tenant, &user.user]).await.unwrap().is_empty(), "once");
    assert_eq!(app.query(reconnect, &[&user.tenant, &user.user, &id, &address]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_connection_carries_no_context_from_one_statement_to_the_next() {
    let (api, user) = (api().await, User::new());
    api.create(&user, json!({})).await;
    let app = connect(&servers().await.postgres.app_url("app")).await;
    let listed = "select (account).id from list_accounts($1, $2, 10, 0)";
    assert!(app.query_one(listed, &[&user.tenant, &user.user]).await.unwrap().get::<_, Option<Uuid>>(0).is_some());
    let settings = "select coalesce(current_setting('app.tenant_id', true), '') || coalesce(current_setting('app.user_id', true), '')";
    assert_eq!(app.query_one(settings, &[]).await.unwrap().get::<_, String>(0), "");
    for table in TABLES {
        match app.query_one(&format!("select count(*) from {table}"), &[]).await {
            Ok(row) => assert_eq!(row.get::<_, i64>(0), 0, "{table}"),
            Err(error) => assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE)),
        }
    }
}

#[tokio::test]
async fn the_probe_tells_ids_and_nothing_else_and_only_to_the_functions() {
    let client = owner().await;
    let row = client
        .query_one(
            "select pg_get_function_result(oid), prosecdef, provolatile = 'v', proconfig, pg_get_userbyid(proowner),
                    has_function_privilege('public', oid, 'execute'), has_function_privilege('email_service_app', oid, 'execute')
             from pg_proc where proname = 'account_owner'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "TABLE(tenant_id uuid, user_id uuid)");
    assert!(row.get(1) && row.get(2));
    assert_eq!(row.get::<_, Vec<&str>>(3), ["search_path=\"\""]);
    assert_eq!(row.get::<_, &str>(4), "email_service_probe");
    assert!(!row.get::<_, bool>(5) && row.get::<_, bool>(6));
}

/// What a role of the functions may do to a column, of all that could be asked.
async fn column_privileges(client: &Client, role: &str) -> Vec<String> {
    let sql = "select format('%s %s.%s', lower(privilege), c.relname, a.attname)
               from pg_class c join pg_attribute a on a.attrelid = c.oid,
                    unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) privilege
               where c.relname = any ($2)
                   and a.attnum > 0 and not a.attisdropped and has_column_privilege($1, c.oid, a.attnum, privilege)
               union all
               select format('%s %s', lower(privilege), c.relname)
               from pg_class c, unnest('{DELETE,TRUNCATE,TRIGGER}'::text[]) privilege
               where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v')
                   and has_table_privilege($1, c.oid, privilege)
               union all
               select format('execute %s', p.oid::regprocedure)
               from pg_proc p
               where p.pronamespace = 'public'::regnamespace and p.prosecdef and has_function_privilege($1, p.oid, 'execute')
               order by 1";
    client.query(sql, &[&role, &TABLES.as_slice()]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

const SEALED: [&str; 8] = [
    "sealed_password",
    "password_key",
    "sealed_smtp_password",
    "smtp_password_key",
    "sealed_refresh_token",
    "refresh_token_key",
    "sealed_access_token",
    "access_token_key",
];
/// What says whose turn it is to refresh tokens.
const TURNS: [&str; 5] =
    ["access_token_expires_at", "tokens_version", "refresh_lease_until", "refresh_failed_at", "refresh_failure"];

/// Whose turn a mailbox is, which both say.
const SYNCHRONISED: [&str; 5] = ["rung_at", "sync_requested_at", "sync_started_at", "leased_until", "lease_token"];

/// What moves with a message that is to be sent.
const OUTGOING: [&str; 13] = [
    "status",
    "tried_since",
    "next_attempt_at",
    "due_at",
    "ring_at",
    "leased_until",
    "lease_token",
    "dot_at",
    "doubtful",
    "doubted",
    "looks",
    "deaths",
    "changed_number",
];

/// What is wrong with the privileges of the functions' two roles, as far as secrets are concerned.
async fn privileges_too_wide(client: &Client) -> Vec<String> {
    let mut wrong = Vec::new();
    for role in ["email_service_app", "email_service_mail"] {
        let is_mail = role == "email_service_mail";
        for privilege in column_privileges(client, role).await {
            let (verb, object) = privilege.split_once(' ').unwrap();
            let (table, column) = object.split_once('.').unwrap_or((object, ""));
            let is_sealed = SEALED.contains(&column);
            let is_turn = TURNS.contains(&column);
            let allowed = match (verb, table) {
                ("execute", _) => {
                    object.starts_with("account_owner(")
                        || !is_mail && object.starts_with("forget_authorizations(")
                        || is_mail
                            && (object.starts_with("secrets_to_reseal(")
                                || object.starts_with("count_secrets_to_reseal("))
                }
                // Whoever changes something takes a number, and notes what is no more.
                ("select" | "insert" | "update", "email_change_numbers") | ("insert", "email_destroyed") => true,
                ("insert", "email_unpurged_objects") => !is_mail,
                // What a user has hidden is forgotten with the account, by whoever deletes that.
                ("delete", "email_hidden") => true,
                ("select", "email_hidden") => is_mail || column != "identity",
                ("insert", "email_hidden") => is_mail,
                ("select", "email_destroyed" | "email_folders" | "email_labels" | "email_messages") => true,
                // Who names another mailbox says that these UIDs are not its own.
                ("update", "email_folders") if column == "uid_validity" => true,
                ("insert" | "update" | "delete", "email_folders" | "email_labels" | "email_messages") => is_mail,
                ("select", "email_accounts") => true,
                // What is written and what was answered is the endpoints' to keep, and never changes hands.
                ("select", "email_outbox") => true,
                ("insert", "email_outbox") => !is_mail,
                // What was asked for stays as it is, and what came of it is the worker's to say.
                ("update", "email_outbox") => {
                    let is_result = ["recipients", "attempts", "response", "sent_at", "copy"].contains(&column);
                    OUTGOING.contains(&column) || is_mail && is_result
                }
                (_, "email_idempotency_keys" | "email_drafts") if is_mail => false,
                ("select" | "insert" | "delete", "email_drafts") => true,
                ("update", "email_drafts") => !["id", "tenant_id", "user_id", "created_at"].contains(&column),
                // What hangs on a message becomes a file where that is read.
                ("select" | "insert", "email_uploads") => true,
                ("update", "email_uploads") => ["used_by", "unused_since"].contains(&column),
                ("select" | "insert" | "delete", "email_idempotency_keys") => true,
                ("update", "email_idempotency_keys") => {
                    ["fingerprint", "outcome", "made", "created_at"].contains(&column)
                }
                // Sign-ins are begun and ended by the endpoints.
                (_, "oauth2_authorizations") if is_mail => false,
                ("select", "oauth2_authorizations") => true,
                ("update", "oauth2_authorizations") => ["verifier_half", "lacks_consent"].contains(&column),
                ("select", _) if is_mail => is_sealed || is_turn || ["id", "tenant_id", "user_id"].contains(&column),
                ("select", _) => {
                    ["id", "tenant_id", "user_id", "algorithm", "created_at", "updated_at", "tokens_version"]
                        .contains(&column)
                }
                ("insert", _) => !is_mail,
                ("update", "email_accounts") if is_mail => {
                    ["state", "state_changed_at", "failures", "next_sync_at", "tried_at"].contains(&column)
                        || SYNCHRONISED.contains(&column)
                        || ["last_sync_at", "synced_with", "sending_held_until", "deaths"].contains(&column)
                        || column.starts_with("last_error_")
                }
                ("update", "email_accounts") => {
                    let never = ["id", "tenant_id", "user_id", "credential_id", "created_at", "is_syncing"];
                    let nor = ["synced_with", "deaths", "created_number", "changed_number"];
                    !never.contains(&column) && !nor.contains(&column)
                }
                ("update", _) if is_mail => is_sealed || is_turn,
                ("update", _) => {
                    is_sealed || is_turn || ["algorithm", "password_hash", "salt", "updated_at"].contains(&column)
                }
                _ => false,
            };
            if !allowed {
                wrong.push(format!("{role}: {privilege}"));
            }
        }
    }
    wrong
}

#[tokio::test]
async fn the_roles_may_do_to_secrets_what_they_must_and_no_more() {
    assert_eq!(privileges_too_wide(&owner().await).await, Vec::<String>::new());
    let app = column_privileges(&owner().await, "email_service_app").await;
    let mail = column_privileges(&owner().await, "email_service_mail").await;
    for column in SEALED {
        // Tokens are put into a row that is there.
        let is_inserted = app.contains(&format!("insert email_credentials.{column}"));
        assert_eq!(is_inserted, column.contains("password"), "{column}: {app:?}");
        assert!(app.contains(&format!("update email_credentials.{column}")), "{app:?}");
        assert!(mail.contains(&format!("select email_credentials.{column}")), "{mail:?}");
    }
    let scheduler = column_privileges(&owner().await, "email_service_scheduler").await;
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
    ];
    assert_eq!(scheduler, wanted, "who is due, what is left behind, and nothing else");
}

#[tokio::test]
async fn who_only_reads_has_a_login_that_can_do_no_more() {
    let owner = owner().await;
    let reader = column_privileges(&owner, "email_service_reader").await;
    let more: Vec<_> = reader.iter().filter(|privilege| !privilege.starts_with("select ")).collect();
    assert_eq!(more, ["execute account_owner(uuid)"]);
    let tables: BTreeSet<_> = reader.iter().filter_map(|it| it.strip_prefix("select ")?.split('.').next()).collect();
    let shown = [
        "email_accounts",
        "email_change_numbers",
        "email_destroyed",
        "email_drafts",
        "email_folders",
        "email_labels",
        "email_messages",
        "email_outbox",
    ];
    assert_eq!(tables, BTreeSet::from(shown), "no secret, no hash, no sign-in, no kept answer");

    let (api, user) = (api().await, User::new());
    let created = api.create(&user, json!({})).await;
    let id = created["id"].as_str().unwrap();
    let draft = api.post("/api/drafts", json!({"subject": "theirs"})).by(&user).send().await;
    assert_eq!(draft.status, 201, "{}", draft.body);
    let reader = connect(&servers().await.postgres.reader_url("app")).await;
    let [colleague, elsewhere, stranger] = strangers(&user);
    let contexts = [Context::Of(user), Context::Of(colleague), Context::Of(elsewhere), Context::Of(stranger)];
    for (context, own) in contexts.into_iter().chain([Context::None]).zip([true, false, false, false, false]) {
        for statement in
            [format!("select from email_accounts where id = '{id}'"), "select from email_drafts".to_owned()]
        {
            begin(&reader, context).await;
            let found = reader.execute(&statement, &[]).await.unwrap();
            reader.batch_execute("rollback").await.unwrap();
            assert_eq!(found > 0, own, "{statement} as {context:?}");
        }
    }
    let User { tenant, user: id_of_user } = user;
    let who = format!("'{tenant}', '{id_of_user}'");
    for statement in [
        "update email_accounts set username = 'x'".to_owned(),
        "update email_drafts set content = '{}'".to_owned(),
        "insert into email_drafts (id) values (gen_random_uuid())".to_owned(),
        "delete from email_drafts".to_owned(),
        "delete from email_outbox".to_owned(),
        "truncate email_accounts".to_owned(),
        "select id from email_credentials".to_owned(),
        "select key_hash from email_idempotency_keys".to_owned(),
        "select state_hash from oauth2_authorizations".to_owned(),
        // Nor by what writes for others.
        format!("select * from disable_account({who}, '{id}')"),
        format!("select * from request_sync({who}, '{id}')"),
        format!("select delete_draft({who}, '{}')", draft.body["id"].as_str().unwrap()),
        format!("select next_numbers({who}, 1)"),
        "select purge_mail(1)".to_owned(),
        "select forget_authorizations(1)".to_owned(),
        "set role email_service_app".to_owned(),
        "create table t (i int)".to_owned(),
    ] {
        begin(&reader, Context::Of(user)).await;
        let error = reader.batch_execute(&statement).await.unwrap_err();
        let refused = Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE);
        assert_eq!(error.code(), refused, "{statement}: {error}");
        reader.batch_execute("rollback").await.unwrap();
    }
}

/// As those do who rotate passwords: each role changes its own.
#[tokio::test]
async fn each_login_may_change_its_password() {
    for (_, url) in logins(&servers().await.postgres, "app") {
        let (_, rest) = url.split_once("://").unwrap();
        let (name, password) = rest.split_once('@').unwrap().0.split_once(':').unwrap();
        let client = connect(&url).await;
        let alter = format!("alter user \"{name}\" with password '{password}'");
        // Other tests' migrations set them at the same time, and PostgreSQL lets one of two do it.
        while let Err(error) = client.batch_execute(&alter).await {
            assert!(error.as_db_error().is_some_and(|error| error.message().contains("concurrently")), "{error:?}");
        }
        connect(&url).await.execute("select 1", &[]).await.unwrap();
    }
}

#[tokio::test]
async fn that_look_goes_red_when_a_privilege_is_widened() {
    let database = new_database().await;
    let client = connect(&servers().await.postgres.owner_url(&database)).await;
    for (grant, expected) in [
        (
            "select (sealed_password) on email_credentials to email_service_app",
            "email_service_app: select email_credentials.sealed_password",
        ),
        (
            "select on email_credentials to email_service_app",
            "email_service_app: select email_credentials.sealed_smtp_password",
        ),
        (
            "select (password_hash) on email_credentials to email_service_mail",
            "email_service_mail: select email_credentials.password_hash",
        ),
        ("select (salt) on email_credentials to public", "email_service_mail: select email_credentials.salt"),
        (
            "select (sealed_refresh_token) on email_credentials to email_service_app",
            "email_service_app: select email_credentials.sealed_refresh_token",
        ),
        (
            "select (verifier_half) on oauth2_authorizations to email_service_mail",
            "email_service_mail: select oauth2_authorizations.verifier_half",
        ),
        (
            "update (hostname) on email_accounts to email_service_mail",
            "email_service_mail: update email_accounts.hostname",
        ),
        ("insert (id) on email_credentials to email_service_mail", "email_service_mail: insert email_credentials.id"),
        ("delete on email_accounts to email_service_mail", "email_service_mail: delete email_accounts"),
        ("update (subject) on email_messages to email_service_app", "email_service_app: update email_messages.subject"),
        ("delete on email_folders to email_service_app", "email_service_app: delete email_folders"),
        ("update (id) on email_destroyed to email_service_mail", "email_service_mail: update email_destroyed.id"),
        (
            "execute on function claim_due(integer, bigint) to email_service_mail",
            "email_service_mail: execute claim_due(integer,bigint)",
        ),
        (
            "execute on function secrets_to_reseal(text, uuid, integer) to email_service_app",
            "email_service_app: execute secrets_to_reseal(text,uuid,integer)",
        ),
    ] {
        client.batch_execute(&format!("begin; grant {grant}")).await.unwrap();
        let wrong = privileges_too_wide(&client).await;
        assert!(wrong.iter().any(|wrong| wrong == expected), "{grant}: {wrong:?}");
        client.batch_execute("rollback").await.unwrap();
    }
    assert_eq!(privileges_too_wide(&client).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_mail_role_opens_its_scope_and_changes_no_setting() {
    let (api, user) = (api().await, User::new());
    let created = api.create(&user, json!({"smtpHostname": "smtp.example.com", "smtpPassword": "another"})).await;
    let [id, credential] = ["id", "credentialId"].map(|name| created[name].as_str().unwrap());
    let url = servers().await.postgres.mail_url("app");
    let mail = connect(&url).await;
    let [colleague, elsewhere, stranger] = strangers(&user);
    let who = [
        (Context::Of(user), true),
        (Context::Of(colleague), false),
        (Context::Of(elsewhere), false),
        (Context::Of(stranger), false),
        (Context::None, false),
    ];
    for (context, allowed) in who {
        for statement in [
            format!("select sealed_password, sealed_smtp_password from email_credentials where id = '{credential}'"),
            format!("select from email_credentials where tenant_id = '{}'", user.tenant),
            format!("update email_credentials set sealed_password = sealed_password where id = '{credential}'"),
            format!("select hostname from email_accounts where id = '{id}'"),
            format!("update email_accounts set failures = failures where id = '{id}'"),
        ] {
            begin(&mail, context).await;
            let touched = mail.execute(&statement, &[]).await.unwrap() > 0;
            mail.batch_execute("rollback").await.unwrap();
            assert_eq!(touched, allowed, "{statement} as {context:?}");
        }
        for statement in [
            "select password_hash from email_credentials",
            "select salt from email_credentials",
            "select * from email_credentials",
            "select c from email_credentials c",
            "update email_accounts set hostname = 'evil.example.com'",
            "update email_accounts set username = 'x'",
            "update email_accounts set settings_version = settings_version + 1",
            "update email_accounts set is_enabled = false",
            "update email_accounts set credential_id = gen_random_uuid()",
            "update email_credentials set password_hash = repeat('0', 128)",
            "update email_credentials set user_id = gen_random_uuid()",
            "insert into email_credentials (id) values (gen_random_uuid())",
            "insert into email_accounts (id) values (gen_random_uuid())",
            "delete from email_accounts",
            "delete from email_credentials",
            "truncate email_credentials",
            "set role email_service_app",
            "set role email_service_probe",
            "create table t (i int)",
        ] {
            begin(&mail, context).await;
            let error = mail.batch_execute(statement).await.unwrap_err();
            assert_eq!(
                error.code(),
                Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE),
                "{statement}: {error}"
            );
            mail.batch_execute("rollback").await.unwrap();
        }
    }

    // The endpoints' role writes the same columns, and reads none of them, not even back.
    let app = connect(&servers().await.postgres.app_url("app")).await;
    for column in SEALED {
        for statement in [
            format!("select {column} from email_credentials"),
            format!("select from email_credentials where {column} is null"),
            format!("update email_credentials set {column} = null returning {column}"),
            format!("update email_credentials set password_hash = {column}::text"),
            format!("select from email_credentials order by {column}"),
        ] {
            begin(&app, Context::Of(user)).await;
            assert!(app.batch_execute(&statement).await.is_err(), "{statement}");
            app.batch_execute("rollback").await.unwrap();
        }
    }
    let app_tries = "select sealed_password from begin_try($1, $2, $3, false)";
    let id: Uuid = id.parse().unwrap();
    assert!(app.query(app_tries, &[&user.tenant, &user.user, &id]).await.is_err());
    let credential: Uuid = credential.parse().unwrap();
    assert!(
        app.query("select * from find_sealed($1, $2, $3)", &[&user.tenant, &user.user, &credential]).await.is_err()
    );
    assert!(
        app.batch_execute("select * from secrets_to_reseal('', '00000000-0000-0000-0000-000000000000', 1)")
            .await
            .is_err()
    );
    assert!(app.batch_execute("select count_secrets_to_reseal('')").await.is_err());
    for call in ["find_all_sealed($1, $2, $3)", "claim_token($1, $2, $3, null, null, 1)"] {
        let sql = format!("select * from {call}");
        assert!(app.query(&sql, &[&user.tenant, &user.user, &credential]).await.is_err(), "{call}");
    }
}

#[tokio::test]
async fn the_functions_for_signing_in_do_nothing_with_the_ids_of_others() {
    let (api, user, owner) = (api().await, User::new(), owner().await);
    let created = api.create(&user, json!({})).await;
    let [id, credential]: [Uuid; 2] =
        ["id", "credentialId"].map(|name| created[name].as_str().unwrap().parse().unwrap());
    // With tokens that somebody is about to refresh.
    let tokens = "update email_credentials set sealed_refresh_token = 'x', refresh_token_key = 'k', tokens_version = 1, refresh_lease_until = 5 where id = $1";
    owner.execute(tokens, &[&credential]).await.unwrap();
    let row = "select a::text || c::text from email_accounts a join email_credentials c on c.id = a.credential_id where a.id = $1";
    let before: String = owner.query_one(row, &[&id]).await.unwrap().get(0);
    let sealed: Vec<u8> = owner
        .query_one("select sealed_password from email_credentials where id = $1", &[&credential])
        .await
        .unwrap()
        .get(0);
    let mail = connect(&servers().await.postgres.mail_url("app")).await;
    for User { tenant, user } in strangers(&user) {
        let found = mail.query("select * from begin_try($1, $2, $3, false)", &[&tenant, &user, &id]).await.unwrap();
        assert!(found.is_empty(), "{found:?}");
        let found = mail.query("select * from find_sealed($1, $2, $3)", &[&tenant, &user, &credential]).await.unwrap();
        assert!(found.is_empty(), "{found:?}");
        let record = "select record_try($1, $2, $3, 1, 'connected', 0, null, null, null, null)";
        mail.execute(record, &[&tenant, &user, &id]).await.unwrap();
        for call in ["claim_token($1, $2, $3, null, null, 1)", "find_all_sealed($1, $2, $3)"] {
            let sql = format!("select * from {call}");
            let found = mail.query(&sql, &[&tenant, &user, &credential]).await.unwrap();
            assert!(found.is_empty() || found[0].get::<_, &str>("what") == "missing", "{call}: {found:?}");
        }
        let store = "select store_tokens($1, $2, $3, 1, 'stolen', 'x', 1, 'x')";
        assert!(!mail.query_one(store, &[&tenant, &user, &credential]).await.unwrap().get::<_, bool>(0));
        mail.execute("select fail_refresh($1, $2, $3, 1, 5, 'stolen')", &[&tenant, &user, &credential]).await.unwrap();
        let reseal = "select reseal($1, $2, $3, 'stolen', $4, null, null, null)";
        assert!(!mail.query_one(reseal, &[&tenant, &user, &credential, &sealed]).await.unwrap().get::<_, bool>(0));
        assert_eq!(owner.query_one(row, &[&id]).await.unwrap().get::<_, String>(0), before);
    }
    // Its own user reaches all of it by the same calls.
    let User { tenant, user } = user;
    assert_eq!(
        mail.query("select * from begin_try($1, $2, $3, false)", &[&tenant, &user, &id]).await.unwrap().len(),
        1
    );
    let claim = "select what from claim_token($1, $2, $3, null, null, 1)";
    assert_eq!(mail.query_one(claim, &[&tenant, &user, &credential]).await.unwrap().get::<_, &str>(0), "claimed");
    let store = "select store_tokens($1, $2, $3, 1, 'k', 'x', 1, 'x')";
    assert!(mail.query_one(store, &[&tenant, &user, &credential]).await.unwrap().get::<_, bool>(0));
    let reseal = "select reseal($1, $2, $3, 'next', $4, $4, null, null)";
    assert!(mail.query_one(reseal, &[&tenant, &user, &credential, &sealed]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test]
async fn what_is_to_be_sealed_anew_is_told_by_ids_alone_and_to_the_mail_functions_alone() {
    let rows = owner()
        .await
        .query(
            "select pg_get_function_result(oid), prosecdef, proconfig, pg_get_userbyid(proowner),
                    has_function_privilege('public', oid, 'execute'), has_function_privilege('email_service_app', oid, 'execute'),
                    has_function_privilege('email_service_mail', oid, 'execute')
             from pg_proc where proname in ('secrets_to_reseal', 'count_secrets_to_reseal') order by proname desc",
            &[],
        )
        .await
        .unwrap();
    let results: Vec<_> = rows.iter().map(|row| row.get::<_, &str>(0)).collect();
    assert_eq!(results, ["TABLE(id uuid, tenant_id uuid, user_id uuid, account_id uuid)", "bigint"]);
    for row in &rows {
        assert!(row.get::<_, bool>(1), "{row:?}");
        assert_eq!(row.get::<_, Vec<&str>>(2), ["search_path=\"\""]);
        assert_eq!(row.get::<_, &str>(3), "email_service_probe");
        assert!(!row.get::<_, bool>(4) && !row.get::<_, bool>(5) && row.get::<_, bool>(6));
    }
    let row = owner()
        .await
        .query_one(
            "select rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, rolinherit,
                    exists (select from pg_auth_members where member = r.oid),
                    exists (select from pg_shdepend where refobjid = r.oid and deptype = 'o')
             from pg_roles r where rolname = 'email_service_mail'",
            &[],
        )
        .await
        .unwrap();
    assert!((0..8).all(|flag| !row.get::<_, bool>(flag)), "{row:?}");
}

#[tokio::test]
async fn mail_functions_refuse_a_role_that_the_policies_do_not_hold() {
    let database = new_database().await;
    let postgres = &servers().await.postgres;
    let owner_url = postgres.owner_url(&database);
    let owner = connect(&owner_url).await;
    let role = format!("powerful_{database}");
    let url = format!("postgres://{role}:secret@{}", owner_url.split_once('@').unwrap().1);
    owner.batch_execute(&format!("create role {role} login password 'secret' bypassrls")).await.unwrap();
    let mut env = servers().await.env();
    env.insert(MAIL_DATABASE_URL, url);
    let api = Api::start(env).await;
    let test = format!("/api/accounts/{}/test", Uuid::now_v7());
    assert_eq!(api.request("POST", &test).by(&User::new()).status().await, 500);
    // A command has no start of its own to fail: it fails as a whole.
    let refused = api.gateway.invoke("reseal-secrets", json!({})).await.unwrap().unwrap_err();
    for words in [api.log(), refused.to_string()] {
        assert!(words.contains(&format!("row-level security does not bind {role}")), "{words}");
    }
    owner.batch_execute(&format!("drop role {role}")).await.unwrap();
}
