//! Starts PostgreSQL, Redis and the function binaries, and sends them requests.
//!
//! One PostgreSQL and one Redis serve the whole run. Tests keep apart by working as a tenant and user of their own;
//! those that change the schema, break a server or need another configuration start what they need for themselves.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use local::emulator::{Bucket, Emulator, Queues};
use local::event_sources::EventSources;
use local::gateway::{Gateway, Options, PayloadVersion};
use local::mail_server::Dovecot;
use local::services::{Postgres, Redis};
use local::template::Function;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, OnceCell};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// Names in an environment for what only functions that open secrets get, as `DATABASE_URL` and
/// `SEALING_PRIVATE_KEYS`.
pub const MAIL_DATABASE_URL: &str = "mail: DATABASE_URL";
pub const MAIL_PRIVATE_KEYS: &str = "mail: SEALING_PRIVATE_KEYS";
/// Likewise for the function that asks who is due.
pub const SCHEDULER_DATABASE_URL: &str = "scheduler: DATABASE_URL";
pub const SCHEDULER_QUEUES: [&str; 2] = ["scheduler: SYNC_QUEUE_URL", "scheduler: OUTBOX_QUEUE_URL"];
/// Likewise for functions that only read.
pub const READER_DATABASE_URL: &str = "reader: DATABASE_URL";
/// The same for functions that ask providers for tokens.
pub const CLIENT_SECRETS: &str = "providers: OAUTH2_CLIENT_SECRETS";

pub const JWT_KEY: &str = "a signing key of the tests, long enough";

/// Servers and gateways outlive the test that happens to start them, so they need a runtime of their own.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

/// Runs a future where what it starts lives on.
pub async fn lasting<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    RUNTIME.spawn(future).await.unwrap()
}

/// PostgreSQL with the migrated database `app`, and Redis. They end with the process: see `local::services`.
pub struct Servers {
    pub postgres: Postgres,
    pub redis: Redis,
}

impl Servers {
    /// Servers of one's own, to break.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(settings: &[&str]) -> Self {
        let postgres = Postgres::start_with(settings).unwrap();
        postgres.create_database("app").await.unwrap();
        migrate::apply(&postgres.owner_url("app"), &postgres.role_urls("app")).await.unwrap();
        Self { postgres, redis: Redis::start().unwrap() }
    }

    /// The functions' environment.
    pub fn env(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("REDIS_URL", self.redis.url()),
            ("JWT_SECRET_KEY", JWT_KEY.to_owned()),
            ("ALLOW_HEADER_AUTH", "true".to_owned()),
            ("RATE_LIMIT_PER_MINUTE", "100000".to_owned()),
            ("SEALING_PUBLIC_KEY", SEALING_KEYS.0.clone()),
            (MAIL_PRIVATE_KEYS, SEALING_KEYS.1.clone()),
            // It does not start without a queue; nobody listens there.
            (SCHEDULER_QUEUES[0], "http://127.0.0.1:1/123456789012/none".to_owned()),
            (SCHEDULER_QUEUES[1], "http://127.0.0.1:1/123456789012/none".to_owned()),
            ("MAIL_BUCKET", "none".to_owned()),
        ])
        .into_iter()
        .chain(logins(&self.postgres, "app"))
        .collect()
    }

    pub async fn api(&self) -> Api {
        Api::start(self.env()).await
    }
}

/// The addresses of a database for each of the functions' roles.
pub fn logins(postgres: &Postgres, database: &str) -> [(&'static str, String); 4] {
    let [app, mail, scheduler, reader] = postgres.role_urls(database);
    [
        ("DATABASE_URL", app),
        (MAIL_DATABASE_URL, mail),
        (SCHEDULER_DATABASE_URL, scheduler),
        (READER_DATABASE_URL, reader),
    ]
}

/// The run's key pair for passwords: the public and the private one.
pub static SEALING_KEYS: LazyLock<(String, String)> = LazyLock::new(|| {
    let (public, private) = shared::sealing::generate("tests").unwrap();
    (public, private.to_string())
});

/// The run's own mail server.
pub async fn mail() -> &'static Dovecot {
    static MAIL: OnceCell<Dovecot> = OnceCell::const_new();
    MAIL.get_or_init(|| lasting(async { Dovecot::start().unwrap() })).await
}

/// The run's own API as [`api`], for functions that reach the run's mail server and no other host.
pub async fn mail_api() -> &'static Api {
    static API: OnceCell<Api> = OnceCell::const_new();
    API.get_or_init(|| async { Api::start(mail_env().await).await }).await
}

/// The environment of [`mail_api`].
pub async fn mail_env() -> BTreeMap<&'static str, String> {
    let mut env = servers().await.env();
    env.insert("MAIL_PRIVATE_NETWORKS", "127.0.0.0/8,::1/128".to_owned());
    env.insert("MAIL_PORTS", "*".to_owned());
    env.insert("MAIL_ISP_DATABASE", "none".to_owned());
    env.insert("SSL_CERT_FILE", mail().await.bundle_file().display().to_string());
    env
}

/// The run's own servers.
pub async fn servers() -> &'static Servers {
    static SERVERS: OnceCell<Servers> = OnceCell::const_new();
    SERVERS.get_or_init(|| lasting(async { Servers::start_with(&["max_connections=300"]).await })).await
}

/// The run's own API: development headers allowed, no limit that a test would meet.
pub async fn api() -> &'static Api {
    static API: OnceCell<Api> = OnceCell::const_new();
    API.get_or_init(|| async { servers().await.api().await }).await
}

/// The functions and routes of `template.yaml`.
pub fn functions() -> Vec<Function> {
    local::template::routes(&local::workspace_root().join("template.yaml")).unwrap()
}

/// Builds the functions once per run; returns the directory of the binaries.
pub fn binaries() -> PathBuf {
    static BINARIES: LazyLock<PathBuf> = LazyLock::new(|| {
        let release = !cfg!(debug_assertions);
        local::build::build_functions(release, functions().iter().map(|f| f.binary.as_str())).unwrap()
    });
    BINARIES.clone()
}

/// A migrated database of one's own on the run's server.
pub async fn new_database() -> String {
    static NAMES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let name = format!("db{}", NAMES.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let postgres = &servers().await.postgres;
    postgres.create_database(&name).await.unwrap();
    migrate::apply(&postgres.owner_url(&name), &postgres.role_urls(&name)).await.unwrap();
    name
}

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    RUNTIME.spawn(connection);
    client
}

/// Waits until a connection of the database waits for a lock.
pub async fn somebody_waits(owner: &Client) {
    let sql = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    let wait = async { while owner.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0 {} };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("nobody waits");
}

/// As the superuser of the run's server, who sees all rows.
pub async fn owner() -> Client {
    connect(&servers().await.postgres.owner_url("app")).await
}

/// Puts a row into a table as its owner, past the functions that are there for it. Returns its id.
pub async fn store(client: &Client, table: &str, row: Value) -> Uuid {
    let sql =
        format!("insert into {table} select * from jsonb_populate_record(null::{table}, $1::text::jsonb) returning id");
    client.query_one(&sql, &[&row.to_string()]).await.unwrap_or_else(|error| panic!("{row}: {error:?}")).get(0)
}

/// Makes a folder a label of a message.
pub async fn store_label(client: &Client, account: &Value, folder: Uuid, message: Uuid) {
    let [tenant, user]: [Uuid; 2] = ["tenantId", "userId"].map(|name| account[name].as_str().unwrap().parse().unwrap());
    let sql = "insert into email_labels (tenant_id, user_id, folder_id, message_id, received_at, is_read, is_flagged)
               select $1, $2, $3, id, received_at, is_read, is_flagged from email_messages where id = $4";
    assert_eq!(client.execute(sql, &[&tenant, &user, &folder, &message]).await.unwrap(), 1);
}

/// A folder of an account, with some columns changed.
pub fn folder_row(account: &Value, path: &str, changes: Value) -> Value {
    let wire_name: String = path.bytes().map(|byte| format!("{byte:02x}")).collect();
    let row = json!({
        "id": Uuid::now_v7(), "tenant_id": account["tenantId"], "user_id": account["userId"], "account_id": account["id"],
        "wire_name": format!("\\x{wire_name}"), "path": path, "delimiter": "/", "role": null, "is_selectable": true,
        "is_label": false, "is_gone": false, "total": 0, "unread": 0, "uid_validity": 1, "uid_next": 1, "is_complete": false, "stored": 0,
        "orphans": 0, "suspicions": 0, "created_number": 0, "changed_number": 0
    });
    merged(row, changes)
}

/// A message of an account, with some columns changed.
pub fn message_row(account: &Value, folder: Uuid, changes: Value) -> Value {
    let row = json!({
        "id": Uuid::now_v7(), "tenant_id": account["tenantId"], "user_id": account["userId"], "account_id": account["id"],
        "folder_id": folder, "identity": Uuid::new_v4(), "thread_id": Uuid::now_v7(), "uid": null, "received_at": 1000,
        "size": 5120, "created_number": 0, "changed_number": 0, "is_read": false, "is_flagged": false,
        "is_answered": false, "is_draft": false, "has_attachments": false, "is_readable": true, "subject": "Lunch?"
    });
    merged(row, changes)
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Notify,
}

/// A gateway with the real function binaries behind it.
pub struct Api {
    pub gateway: Gateway,
    url: String,
    http: reqwest::Client,
    log: Arc<Log>,
}

impl Api {
    pub async fn start(env: BTreeMap<&'static str, String>) -> Self {
        Self::start_as(env, PayloadVersion::V2, 2).await
    }

    pub async fn start_as(env: BTreeMap<&'static str, String>, payload: PayloadVersion, concurrency: usize) -> Self {
        let log = Arc::new(Log::default());
        let mut options = Options::new(functions(), binaries());
        for (name, value) in env {
            let (env, name) = match name.split_once(": ") {
                Some(("mail", name)) => (&mut options.mail_env, name),
                Some(("scheduler", name)) => (&mut options.scheduler_env, name),
                Some(("reader", name)) => (&mut options.reader_env, name),
                Some((_, name)) => (&mut options.providers_env, name),
                None => (&mut options.env, name),
            };
            env.push((name.to_owned(), value));
        }
        options.payload_version = payload;
        options.concurrency = concurrency;
        let sink = log.clone();
        options.log = Arc::new(move |_, line| {
            sink.lines.lock().unwrap().push(line.to_owned());
            sink.grown.notify_waiters();
        });
        let gateway = lasting(async { Gateway::start(options).await.unwrap() }).await;
        let url = gateway.url();
        // A test looks itself where an answer leads to.
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { gateway, url, http, log }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn request(&self, method: &str, path: &str) -> Request {
        let method: reqwest::Method = method.parse().unwrap();
        let is_head = method == reqwest::Method::HEAD;
        Request { http: self.http.request(method, format!("{}{path}", self.url)), is_head }
    }

    pub fn get(&self, path: &str) -> Request {
        self.request("GET", path)
    }

    pub fn post(&self, path: &str, body: Value) -> Request {
        self.request("POST", path).json(body)
    }

    pub fn put(&self, path: &str, body: Value) -> Request {
        self.request("PUT", path).json(body)
    }

    pub fn delete(&self, path: &str) -> Request {
        self.request("DELETE", path)
    }

    /// Creates an account and returns it.
    pub async fn create(&self, user: &User, changes: Value) -> Value {
        let answer = self.post("/api/accounts", account(changes)).by(user).send().await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.body
    }

    /// The addresses that a list shows, in its order.
    pub async fn addresses(&self, user: &User) -> Vec<String> {
        let answer = self.get("/api/accounts").by(user).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let accounts = answer.body["accounts"].as_array().unwrap();
        accounts.iter().map(|account| account["emailAddress"].as_str().unwrap().to_owned()).collect()
    }

    /// Sends a function's only process a signal by its name, such as `STOP`.
    pub fn signal(&self, function: &str, signal: &str) {
        let pid = self.gateway.pids(function).unwrap()[0].to_string();
        assert!(std::process::Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }

    /// All that the functions have written so far.
    pub fn log(&self) -> String {
        self.log.lines.lock().unwrap().join("\n")
    }

    /// All lines that fit, as soon as there are so many.
    pub async fn log_lines(&self, count: usize, fits: impl Fn(&Value) -> bool) -> Vec<Value> {
        let parse = |line: &String| serde_json::from_str::<Value>(line).ok().filter(|line| fits(line));
        let search = async {
            loop {
                let grown = self.log.grown.notified();
                let found: Vec<_> = self.log.lines.lock().unwrap().iter().filter_map(parse).collect();
                if found.len() >= count {
                    return found;
                }
                let _ = tokio::time::timeout(Duration::from_millis(50), grown).await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(30), search).await;
        found.unwrap_or_else(|_| panic!("no {count} such log lines in:\n{}", self.log()))
    }

    /// The first log line that fits, as soon as it is there.
    pub async fn log_line(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let search = async {
            loop {
                let grown = self.log.grown.notified();
                let found = self.log.lines.lock().unwrap().iter().find_map(|line| {
                    let line = serde_json::from_str(line).ok()?;
                    fits(&line).then_some(line)
                });
                if let Some(line) = found {
                    return line;
                }
                // The wake-up is missed if the line comes just before we wait; the limit makes us look again.
                let _ = tokio::time::timeout(Duration::from_millis(50), grown).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), search)
            .await
            .unwrap_or_else(|_| panic!("no such log line in:\n{}", self.log()))
    }

    pub async fn log_of(&self, answer: &Answer) -> Value {
        self.log_line(|line| line["requestId"] == answer.request_id() && line["message"] == "request").await
    }
}

/// The run's own emulator of SQS and S3, for those who ask for it: it takes a second to start.
pub fn emulator() -> &'static Emulator {
    static SERVER: LazyLock<Emulator> = LazyLock::new(|| Emulator::start().unwrap());
    &SERVER
}

/// The service with its jobs: queues, a bucket, what leads from them to the workers, and a clock that a test turns. Its database is
/// its own, for the schedule serves all tenants.
pub struct Service {
    pub api: Api,
    pub queues: Queues,
    pub bucket: Bucket,
    pub sources: EventSources,
    pub owner: Client,
}

impl Service {
    /// Messages that failed come again after `again`, which the template makes much longer.
    pub async fn start(again: Duration, more_env: BTreeMap<&'static str, String>) -> Self {
        let database = new_database().await;
        let postgres = &servers().await.postgres;
        let mut env = mail_env().await;
        SCHEDULER_QUEUES.iter().for_each(|name| drop(env.remove(name)));
        env.extend(logins(postgres, &database));
        let mut queues = local::template::queues(&local::workspace_root().join("template.yaml")).unwrap();
        queues.iter_mut().for_each(|queue| queue.visibility_timeout = again);
        let queues = lasting(async move { emulator().make(&queues).await.unwrap() }).await;
        let bucket = lasting(async { emulator().make_bucket().await.unwrap() }).await;
        let both = queues.env().iter().chain(bucket.env());
        env.extend(both.map(|(name, value)| (&*name.clone().leak(), value.clone())));
        env.extend(more_env);
        let api = Api::start(env).await;
        let sources = {
            let _runtime = RUNTIME.enter();
            EventSources::start(&api.gateway, &functions(), Some(&queues)).unwrap()
        };
        let owner = connect(&postgres.owner_url(&database)).await;
        Self { api, queues, bucket, sources, owner }
    }

    /// Gives the schedule its turn, and returns what it answered.
    pub async fn tick(&self) -> Value {
        self.sources.tick("schedule-work").await.unwrap().unwrap()
    }

    /// Lets these accounts have been due for so many seconds.
    pub async fn make_due(&self, accounts: &[Uuid], seconds: i64) {
        let sql = "update email_accounts set next_sync_at = epoch_ms() - $2::bigint * 1000 where id = any ($1)";
        let count = self.owner.execute(sql, &[&accounts, &seconds]).await.unwrap();
        assert_eq!(count, accounts.len() as u64);
    }

    /// Waits until a queue has so many messages.
    pub async fn has(&self, queue: &str, count: usize) {
        let wait = async { while self.queues.count(queue).await.unwrap() != count {} };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        assert!(waited.is_ok(), "{queue} has {}", self.queues.count(queue).await.unwrap());
    }
}

/// A caller.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct User {
    pub tenant: Uuid,
    pub user: Uuid,
}

impl User {
    pub fn new() -> Self {
        Self { tenant: Uuid::new_v4(), user: Uuid::new_v4() }
    }

    /// Another user of the same tenant.
    pub fn colleague(&self) -> Self {
        Self { user: Uuid::new_v4(), ..*self }
    }

    pub fn claims(&self) -> Value {
        json!({"tenant_id": self.tenant, "user_id": self.user, "exp": now_seconds() + 600})
    }

    pub fn token(&self) -> String {
        sign(&self.claims(), JWT_KEY)
    }

    /// A token with some claims changed.
    pub fn token_with(&self, changes: Value) -> String {
        sign(&merged(self.claims(), changes), JWT_KEY)
    }
}

pub fn sign(claims: &Value, key: &str) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(key.as_bytes())).unwrap()
}

pub fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A good body for a create, with some fields changed.
pub fn account(changes: Value) -> Value {
    let good = json!({
        "accountName": "Work", "emailAddress": "jane@example.com", "protocol": "imap", "hostname": "imap.example.com",
        "port": 993, "username": "jane", "password": "correct horse battery staple"
    });
    merged(good, changes)
}

/// `base` with the fields of `changes`.
pub fn merged(mut base: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        base[name] = value.clone();
    }
    base
}

/// Announces a file, and puts it.
pub async fn upload(service: &Service, user: &User, name: &str, bytes: Vec<u8>) -> Value {
    let announced = json!({"filename": name, "contentType": "application/octet-stream", "size": bytes.len()});
    let upload = service.api.post("/api/uploads", announced).by(user).send().await.body;
    // The length of an empty file would be left unsaid.
    let request = reqwest::Client::new().put(upload["url"].as_str().unwrap()).header("content-length", bytes.len());
    let mut request = request.body(bytes);
    for (name, value) in upload["headers"].as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    assert!(request.send().await.unwrap().status().is_success());
    upload["id"].clone()
}

/// `base` without a field.
pub fn without(mut base: Value, field: &str) -> Value {
    base.as_object_mut().unwrap().remove(field).unwrap();
    base
}

pub struct Request {
    http: reqwest::RequestBuilder,
    is_head: bool,
}

impl Request {
    /// As this user, by token.
    pub fn by(self, user: &User) -> Self {
        self.bearer(&user.token())
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// As this user, by the development headers.
    pub fn by_headers(self, user: &User) -> Self {
        self.header("x-tenant-id", &user.tenant.to_string()).header("x-user-id", &user.user.to_string())
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        Self { http: self.http.header(name, value), ..self }
    }

    pub fn json(self, body: Value) -> Self {
        Self { http: self.http.json(&body), ..self }
    }

    pub fn body(self, body: impl Into<reqwest::Body>) -> Self {
        Self { http: self.http.body(body), ..self }
    }

    pub async fn send(self) -> Answer {
        // The client's pooled connections are used by all tests, so their tasks must outlive each one.
        let (status, headers, bytes) = lasting(async {
            let response = self.http.send().await.unwrap();
            (response.status().as_u16(), response.headers().clone(), response.bytes().await.unwrap())
        })
        .await;
        let is_json = headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let body = if bytes.is_empty() || !is_json {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("no JSON: {bytes:?}"))
        };
        let answer = Answer { status, headers, body, bytes: bytes.into(), is_head: self.is_head };
        answer.check_what_all_answers_have();
        answer
    }

    /// The status alone: a gateway whose function died answers in its own words.
    pub async fn status(self) -> u16 {
        lasting(async { self.http.send().await.unwrap().status().as_u16() }).await
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    /// Null unless it is JSON.
    pub body: Value,
    pub bytes: Vec<u8>,
    is_head: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn request_id(&self) -> &str {
        self.header("x-request-id").unwrap()
    }

    /// The names of the fields at fault, sorted.
    pub fn faults(&self) -> Vec<&str> {
        let details = self.body["details"].as_array().unwrap_or_else(|| panic!("no details: {self:?}"));
        let mut names: Vec<_> = details.iter().map(|fault| fault["field"].as_str().unwrap()).collect();
        names.sort_unstable();
        names
    }

    /// Fails unless this is a refusal with this status and its kind.
    #[track_caller]
    pub fn is_refused(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
        let kind = match status {
            400 => "Invalid request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not found",
            405 => "Method not allowed",
            409 => "Conflict",
            410 => "Gone",
            413 => "Payload too large",
            422 => "Unprocessable",
            429 => "Rate limit exceeded",
            502 => "Mail server error",
            500 => "Internal server error",
            503 => "Service unavailable",
            other => panic!("no kind for {other}"),
        };
        assert_eq!(self.body["error"], kind);
    }

    /// What the contract promises of every answer.
    fn check_what_all_answers_have(&self) {
        if self.header("content-disposition").is_none() {
            assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        }
        // What is the same for everybody may be kept, and has a tag to ask by.
        let (caching, vary) = match self.header("etag") {
            Some(_) => ("public, no-cache", "Origin, Accept-Encoding"),
            None => ("no-store", "Origin"),
        };
        for (name, expected) in [("cache-control", caching), ("x-content-type-options", "nosniff"), ("vary", vary)] {
            assert_eq!(self.header(name), Some(expected), "{name} of {self:?}");
        }
        assert!(self.header("strict-transport-security").is_some_and(|v| v.starts_with("max-age=")), "{self:?}");
        assert!(!self.request_id().is_empty());
        if self.status >= 400 && !self.is_head {
            assert_eq!(self.body["requestId"], self.request_id());
            assert!(self.body["error"].is_string() && self.body["message"].is_string(), "{self:?}");
        }
        assert!(!self.is_head || self.body == Value::Null, "{self:?}");
        assert_eq!(self.status == 401, self.header("www-authenticate") == Some("Bearer"), "{self:?}");
    }
}
