//! The fence between tenants and users: both locks together over HTTP, and each lock alone in the database.

use serde_json::json;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{Api, Servers, User, api, connect, new_database, owner, servers};

const TABLES: [&str; 2] = ["email_accounts", "email_credentials"];

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
    let row = client
        .query_one("select rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, rolinherit from pg_roles where rolname = 'email_service_app'", &[])
        .await
        .unwrap();
    assert!((0..6).all(|flag| !row.get::<_, bool>(flag)), "{row:?}");
    let owned = "select count(*) from pg_shdepend where refobjid = 'email_service_app'::regrole and deptype = 'o'";
    assert_eq!(client.query_one(owned, &[]).await.unwrap().get::<_, i64>(0), 0);
    let member = "select count(*) from pg_auth_members where member = 'email_service_app'::regrole";
    assert_eq!(client.query_one(member, &[]).await.unwrap().get::<_, i64>(0), 0);

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
        "update schema_migrations set version = 99",
        "set role email_service_owner",
        "set role email_service_probe",
        "set role email_service_janitor",
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
        // By way of another role, and of one that could only be taken on.
        "revoke email_service_janitor from powerful; create role middle; grant email_service_probe to middle; grant middle to powerful",
        "alter role middle bypassrls; revoke email_service_probe from middle",
        "alter role middle nobypassrls superuser",
        "alter role middle nosuperuser; create policy report on email_credentials to middle using (true)",
        "drop policy report on email_credentials; alter table email_credentials disable row level security",
    ] {
        owner.batch_execute(power).await.unwrap();
        let mut env = servers.env();
        env.insert("DATABASE_URL", url.clone());
        let api = Api::start(env).await;
        assert!(api.gateway.invoke("list-accounts", json!({})).await.unwrap().is_err(), "{power}");
        assert!(api.log().contains("row-level security does not bind powerful"), "{power}: {}", api.log());
    }
    // Nothing of all that: the functions take it, and it reaches no row and no function of ours.
    owner
        .batch_execute("alter table email_credentials enable row level security; grant pg_monitor to powerful")
        .await
        .unwrap();
    let mut env = servers.env();
    env.insert("DATABASE_URL", url);
    let api = Api::start(env).await;
    assert!(api.gateway.invoke("list-accounts", json!({})).await.unwrap().is_ok());
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

/// What the policies alone let through of one user's row: statements without any filter of their own, each table, each
/// command, each identity. Returns what was let through and should not have been, or the other way round.
async fn leaks(database: &str) -> Vec<String> {
    let servers = servers().await;
    let mut env = servers.env();
    env.insert("DATABASE_URL", servers.postgres.app_url(database));
    let api = Api::start(env).await;
    let user = User::new();
    let created = api.create(&user, json!({})).await;
    let ids = [created["id"].as_str().unwrap(), created["credentialId"].as_str().unwrap()];
    let app = connect(&servers.postgres.app_url(database)).await;
    let mut leaks = Vec::new();
    let [colleague, elsewhere, stranger] = strangers(&user);
    for (who, context, allowed) in [
        ("owner", Context::Of(user), true),
        ("colleague", Context::Of(colleague), false),
        ("same user id in another tenant", Context::Of(elsewhere), false),
        ("stranger", Context::Of(stranger), false),
        ("no context", Context::None, false),
    ] {
        for (table, id) in TABLES.iter().zip(ids) {
            let row_columns = match *table {
                "email_accounts" => {
                    "account_name, email_address, protocol, hostname, port, encryption, username, credential_id, created_at, updated_at"
                }
                _ => "algorithm, password_hash, salt, created_at, updated_at",
            };
            let values = match *table {
                "email_accounts" => format!("'x', 'x@example.com', 'imap', 'x', 1, 'tls', 'x', '{}', 0, 0", ids[1]),
                _ => "'sha512', repeat('0', 128), repeat('0', 64), 0, 0".to_owned(),
            };
            let (tenant_id, user_id, new) = (user.tenant, user.user, Uuid::now_v7());
            for (command, statement) in [
                ("select", format!("select from {table} where id = '{id}'")),
                ("select all", format!("select from {table} where tenant_id = '{tenant_id}'")),
                ("update", format!("update {table} set updated_at = updated_at + 1 where id = '{id}'")),
                (
                    "insert",
                    format!(
                        "insert into {table} (id, tenant_id, user_id, {row_columns}) values ('{new}', '{tenant_id}', '{user_id}', {values})"
                    ),
                ),
                // The role has no right to delete; the policy must hold without that, so it is granted here.
                ("delete", format!("delete from {table} where id = '{id}'")),
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

async fn database_with_delete_granted() -> (String, Client) {
    let database = new_database().await;
    let client = connect(&servers().await.postgres.owner_url(&database)).await;
    client.batch_execute("grant delete on email_accounts, email_credentials to email_service_app").await.unwrap();
    (database, client)
}

#[tokio::test]
async fn the_policies_alone_hold_without_any_filter_in_the_statement() {
    let (database, _) = database_with_delete_granted().await;
    assert_eq!(leaks(&database).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_matrix_goes_red_when_a_policy_is_missing() {
    for table in TABLES {
        let (database, client) = database_with_delete_granted().await;
        client
            .batch_execute(&format!("drop policy {table}_scope on {table}; create policy open on {table} using (true)"))
            .await
            .unwrap();
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
    env.insert("DATABASE_URL", servers.postgres.app_url(&database));
    let (api, user) = (Api::start(env).await, User::new());
    let created = api.create(&user, json!({})).await;
    let path = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let hash = "select password_hash from email_credentials";
    let before: String = client.query_one(hash, &[]).await.unwrap().get(0);
    for stranger in strangers(&user) {
        assert!(api.addresses(&stranger).await.is_empty());
        api.get(&path).by(&stranger).send().await.is_refused(403);
        api.put(&path, json!({"port": 1, "password": "stolen"})).by(&stranger).send().await.is_refused(403);
        api.delete(&path).by(&stranger).send().await.is_refused(403);
    }
    assert_eq!(api.get(&path).by(&user).send().await.body, created);
    assert_eq!(client.query_one(hash, &[]).await.unwrap().get::<_, String>(0), before);
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
        assert_eq!(app.query_one(&format!("select count(*) from {table}"), &[]).await.unwrap().get::<_, i64>(0), 0);
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
