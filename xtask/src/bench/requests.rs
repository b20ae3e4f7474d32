//! What the functions are asked, and what the floor is asked instead.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use local::{environment::Answer, services::secret, workspace_root};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Bench, DATABASE};

pub(super) const JWT_KEY: &str = "a signing key of the benchmark, long enough";

/// A user, with a token.
pub(super) struct Caller {
    pub(super) tenant: Uuid,
    pub(super) user: Uuid,
    token: String,
}

impl Caller {
    pub(super) fn new() -> Result<Self> {
        Self::with_ids(Uuid::now_v7(), Uuid::now_v7())
    }

    pub(super) fn with_ids(tenant: Uuid, user: Uuid) -> Result<Self> {
        let expires = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600;
        let claims = json!({ "tenant_id": tenant, "user_id": user, "exp": expires });
        let token = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &claims,
            &EncodingKey::from_secret(JWT_KEY.as_bytes()),
        )?;
        Ok(Self { tenant, user, token })
    }

    /// API Gateway's event for a function, with this caller's token.
    pub(super) fn event(&self, function: &str, id: Option<Uuid>, body: Option<Value>) -> Result<Vec<u8>> {
        let file = fs::read_to_string(workspace_root().join(format!("tests/events/{function}.json")))?;
        let mut event: Value = serde_json::from_str(&file)?;
        let headers = event["headers"].as_object_mut().context("the event has no headers")?;
        headers.retain(|name, _| !name.starts_with("x-"));
        headers.insert("authorization".to_owned(), format!("Bearer {}", self.token).into());
        if let Some(id) = id {
            event["pathParameters"]["id"] = json!(id);
            event["rawPath"] = format!("/api/accounts/{id}").into();
        }
        if let Some(body) = body {
            event["body"] = body.to_string().into();
        }
        Ok(serde_json::to_vec(&event)?)
    }

    /// The parameters that each statement begins with.
    pub(super) fn params(&self, more: &[Value]) -> Value {
        let mut params = vec![json!({ "uuid": self.tenant }), json!({ "uuid": self.user })];
        params.extend_from_slice(more);
        params.into()
    }
}

pub(super) const PASSWORD: &str = "correct horse battery staple";

pub(super) fn account(address: &str) -> Value {
    json!({
        "accountName": "Work", "emailAddress": address, "protocol": "imap", "hostname": "imap.example.com",
        "port": 993, "username": "jane", "password": PASSWORD
    })
}

/// What the functions send to Redis and PostgreSQL, as these saw it.
pub(super) struct Sent {
    redis: Vec<String>,
    sql: String,
}

impl Sent {
    /// Watches the servers while a function answers a request.
    pub(super) async fn by(bench: &Bench, ask: impl FnOnce() -> Result<Answer>) -> Result<Self> {
        let mut monitor = TcpStream::connect((Ipv4Addr::LOCALHOST, bench.redis.port()))?;
        monitor.set_read_timeout(Some(Duration::from_millis(200)))?;
        monitor.write_all(b"MONITOR\r\n")?;
        let mut lines = BufReader::new(monitor).lines();
        lines.next().context("Redis does not let us watch")??;
        ensure_good(&ask()?)?;
        let seen: Vec<String> = lines.map_while(Result::ok).collect();
        let call = seen.iter().rfind(|line| line.contains("\"EVALSHA\"")).context("Redis was not asked")?;
        let words = call.split_once('"').context("Redis reports a command without words")?.1.trim_end_matches('"');
        let sql = "select query from pg_stat_activity where usename like 'email_service_%' and query <> '' order by query_start desc";
        let sql = bench.owner(DATABASE).await?.query(sql, &[]).await?;
        let sql = sql.first().context("PostgreSQL was not asked")?.try_get(0)?;
        Ok(Self { redis: words.split("\" \"").map(str::to_owned).collect(), sql })
    }

    /// The event that makes the floor send the same.
    pub(super) fn event(&self, params: &Value) -> Vec<u8> {
        json!({ "redis": self.redis, "flights": [[{ "sql": self.sql, "params": params }]] }).to_string().into()
    }
}

pub(super) fn ensure_good(answer: &Answer) -> Result<()> {
    ensure!(answer.body.starts_with(b"{\"statusCode\":20"), "{}", String::from_utf8_lossy(&answer.body));
    Ok(())
}

/// Gives the caller accounts; returns their ids.
pub(super) async fn seed(bench: &Bench, caller: &Caller, count: usize) -> Result<Vec<Uuid>> {
    let unique = secret();
    let rows = bench
        .owner(DATABASE)
        .await?
        .query(
            "select a.id from generate_series(1, $3::bigint) n, lateral insert_account(
                 $1, $2, gen_random_uuid(), 'Work', n || '@' || $4::text || '.example.com',
                 n || '@' || $4::text || '.example.com', 'imap', 'imap.example.com', 993, 'tls', 'jane', true, 300,
                 gen_random_uuid(), 'sha512', repeat('0', 128), repeat('0', 64), null,
                 'bench', 'sealed', null, null, null, null, null) a",
            &[&caller.tenant, &caller.user, &i64::try_from(count)?, &&unique[..16]],
        )
        .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The statement that inserts messages such as people get. `source` is a query that gives their `n`, from which all else
/// follows, `tenant_id`, `user_id`, `account_id`, `folder_id`, `received_at` and `has_preview`.
pub(super) fn insert_messages(source: &str) -> String {
    format!(
        "insert into email_messages (
             id, tenant_id, user_id, account_id, folder_id, identity, thread_id, uid, received_at, sent_at, size,
             created_number, changed_number, is_read, is_flagged, is_answered, is_draft, has_attachments, is_readable,
             subject, from_list, to_list, cc_list, message_id, in_reply_to, preview
         )
         select (lpad(to_hex(n), 12, '0') || substr(h, 13))::uuid, tenant_id, user_id, account_id, folder_id, h::uuid,
             md5(h)::uuid, n, received_at, received_at - 5000, 5000 + n % 90000, n, n, h > '1', h like '_0%', h like '__0%', false,
             h like '___0%', true,
             'Re: ' || substr(h || h, 1, 10 + (n % 50)::integer),
             '[[\"Firstname Lastname\",\"' || substr(h, 1, 12) || '@example.com\"]]',
             '[[\"Jane Doe\",\"jane.doe@example.com\"]]',
             case when n % 5 = 0 then '[[null,\"' || substr(h, 5, 12) || '@example.com\"],[\"Joe\",\"joe@example.com\"]]' end,
             h || '.' || n || '@mail.example.com', case when n % 5 < 2 then reverse(h) || '.' || n || '@mail.example.com' end,
             case when has_preview then substr(repeat(h || ' ', 5), 1, 140) end
         from ({source}) messages cross join lateral md5(n::text) as h"
    )
}

/// Gives an account so many messages, a sixteenth of them unread.
pub(super) async fn seed_messages(bench: &Bench, caller: &Caller, account: Uuid, count: u64) -> Result<()> {
    let (tenant, user) = (caller.tenant, caller.user);
    let messages = insert_messages(&format!(
        "select n, '{tenant}'::uuid as tenant_id, '{user}'::uuid as user_id, '{account}'::uuid as account_id,
             '{account}'::uuid as folder_id, n * 1000 as received_at, true as has_preview
         from generate_series(1, {count}::bigint) n"
    ));
    bench
        .owner(DATABASE)
        .await?
        .batch_execute(&format!(
            "insert into email_folders (id, tenant_id, user_id, account_id, wire_name, path, role, is_selectable,
                 created_number, changed_number)
             values ('{account}', '{tenant}', '{user}', '{account}', 'INBOX', 'INBOX', 'inbox', true, 0, 0);
             {messages}"
        ))
        .await?;
    Ok(())
}

/// Gives an account so many folders.
pub(super) async fn seed_folders(bench: &Bench, caller: &Caller, account: Uuid, count: i64) -> Result<()> {
    let sql = "insert into email_folders (id, tenant_id, user_id, account_id, wire_name, path, is_selectable,
                   created_number, changed_number)
               select gen_random_uuid(), $1::uuid, $2::uuid, $3::uuid, convert_to('Folder' || n, 'UTF8'), 'Folder' || n,
                   true, 0, 0
               from generate_series(1, $4::bigint) n";
    bench.owner(DATABASE).await?.execute(sql, &[&caller.tenant, &caller.user, &account, &count]).await?;
    Ok(())
}
