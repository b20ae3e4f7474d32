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
        let sql = "select query from pg_stat_activity where usename = 'email_service_app' and query <> '' order by query_start desc";
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
