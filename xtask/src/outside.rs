//! The API as others use it: by Schemathesis, and by a page in a browser, each against a service of its own.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use hyper::{Request, http::request::Builder};
use jsonwebtoken::{EncodingKey, Header};
use local::{
    build::build_functions,
    emulator::Emulator,
    gateway::{Gateway, Options},
    install::{Tool, ensure_installed},
    mail_server::Dovecot,
    provider::Provider,
    services::{Postgres, Redis, secret},
    template,
    tools::{SCHEMATHESIS, python_tool},
    workspace_root,
};
use mail::clean::{Cleaned, clean};

use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::{
    demo::{DEMO_ADDRESS, TENANT, USER, by, send},
    dev::PAGE_SIGN,
    functions::SealingKeys,
    fuzz, skip,
};

const DATABASE: &str = "email_service";
/// Pieced together from hostile samples.
const SPLICES: usize = 6000;
/// A browser may say nothing for ever: each file of its tests ends after seven minutes.
const TEST_TIMEOUT: &str = "--test-timeout=420000";
/// From the start of the demonstration until its mail is listed, and from a delivery until that is.
const LISTED_WITHIN: Duration = Duration::from_secs(60);
/// Who signs in with the provider.
const MAILBOX: &str = "jane@mail.example";

/// What no page reaches.
const WORKER: &str = "sync-account";

/// The way to mail hosts as good as shut: the hosts are made up here, and some of them may be somebody's. No name server
/// answers, and of ports only one is open that no example and no limit has.
const NO_WAY_OUT: [(&str, &str); 3] =
    [("MAIL_NAME_SERVERS", "127.0.0.1:1"), ("MAIL_ISP_DATABASE", "none"), ("MAIL_PORTS", "52525")];

/// What the examples of sign-ins name. Nobody is reached for their beginning.
const PROVIDERS: [(&str, &str); 2] = [
    ("OAUTH2_PROVIDERS", r#"{"google":{"clientId":"example"}}"#),
    ("OAUTH2_REDIRECT_URIS", "https://app.example.com/connected"),
];

/// The service with servers of its own, on a free port, until it is dropped.
struct Service {
    gateway: Gateway,
    key: String,
    postgres: Postgres,
    _redis: Redis,
    _emulator: Emulator,
}

impl Service {
    /// Accepts tokens only, as in production; `rate_limit` requests per minute and user, 0 for any number; `more` in the
    /// functions' environment.
    async fn start(rate_limit: u32, more: Vec<(String, String)>) -> Result<Self> {
        ensure_installed(&[Tool::PostgreSql, Tool::Redis])?;
        let (postgres, redis, key) = (Postgres::start()?, Redis::start()?, secret());
        let emulator = Emulator::start()?;
        let bucket = emulator.make_bucket().await?;
        postgres.create_database(DATABASE).await?;
        migrate::apply(&postgres.owner_url(DATABASE), &postgres.role_urls(DATABASE)).await?;
        let mut functions = template::routes(&workspace_root().join("template.yaml"))?;
        functions.retain(|function| !function.routes.is_empty() || function.binary == WORKER);
        let binaries = build_functions(false, functions.iter().map(|function| &function.binary))?;
        let mut options = Options::new(functions, binaries);
        options.env = vec![
            ("DATABASE_URL".into(), postgres.app_url(DATABASE)),
            ("REDIS_URL".into(), redis.url()),
            ("JWT_SECRET_KEY".into(), key.clone()),
            ("RATE_LIMIT_PER_MINUTE".into(), rate_limit.to_string()),
        ];
        options.env.extend(PROVIDERS.map(|(name, value)| (name.to_owned(), value.to_owned())));
        options.env.extend(NO_WAY_OUT.map(|(name, value)| (name.to_owned(), value.to_owned())));
        options.env.extend(bucket.env().iter().cloned());
        // Of one name, the last value counts.
        options.env.extend(more);
        SealingKeys::new()?.hand_to(&mut options, postgres.role_urls(DATABASE));
        // What goes wrong shows at the caller; thousands of request lines would bury it.
        options.log = Arc::new(|_, _| {});
        let gateway = Gateway::start(options).await?;
        gateway.prewarm();
        Ok(Self { gateway, key, postgres, _redis: redis, _emulator: emulator })
    }

    /// Hands those accounts to the worker for which somebody rings, as a queue would, until it is dropped.
    async fn work(&self) -> Result<()> {
        let (client, connection) = tokio_postgres::connect(&self.postgres.owner_url(DATABASE), NoTls).await?;
        // Ends with the client; its errors reach us as those of the statements.
        tokio::spawn(connection);
        let sql = "select tenant_id, user_id, id from email_accounts where sync_requested_at is not null and rung_at is not null";
        loop {
            for row in client.query(sql, &[]).await? {
                let [tenant, user, account]: [Uuid; 3] = [row.get(0), row.get(1), row.get(2)];
                let body = json!({"tenantId": tenant, "userId": user, "accountId": account}).to_string();
                let message =
                    json!({"messageId": account, "body": body, "attributes": {"ApproximateReceiveCount": "1"}});
                // What goes wrong shows on the page, which waits for mail.
                let _ = self.gateway.invoke(WORKER, json!({"Records": [message]})).await?;
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// A token of a user who has no accounts yet.
    fn token(&self) -> Result<String> {
        let hour = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600;
        let claims = json!({"tenant_id": Uuid::now_v7(), "user_id": Uuid::now_v7(), "exp": hour});
        Ok(jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(self.key.as_bytes()))?)
    }
}

/// Tests the running service against `openapi.json`, as `tests/schemathesis/schemathesis.toml` says.
pub(crate) async fn schemathesis() -> Result<()> {
    let program = python_tool("st", SCHEMATHESIS)?;
    // Without a limit, for tries have one of their own, which no number lifts.
    let service = Service::start(0, Vec::new()).await?;
    // Two users who must not see each other's accounts.
    let user = |name: &str| -> Result<Value> {
        let header = json!({"name": "Authorization", "value": format!("Bearer {}", service.token()?)});
        Ok(json!({"name": name, "fixedHeaders": [header]}))
    };
    let directory = workspace_root().join("target/schemathesis");
    fs::create_dir_all(&directory)?;
    let users = directory.join("users.json");
    fs::write(&users, json!({"auth": [user("jane")?, user("john")?]}).to_string())?;
    let command = |document: &Path| {
        let mut command = Command::new(&program);
        command
            .arg("--config-file")
            .arg(workspace_root().join("tests/schemathesis/schemathesis.toml"))
            .arg("run")
            .arg(document)
            // Its notes of earlier runs would make a run depend on them, so they go where nothing is kept.
            .current_dir(&directory)
            .env("API_URL", service.gateway.url())
            .env("USERS_FILE", &users);
        command
    };
    let document = workspace_root().join("openapi.json");
    run(command(&document), "Schemathesis").await?;

    // Would it tell? Of a document that promises something else it must.
    let mut wrong: Value = serde_json::from_str(&fs::read_to_string(document)?)?;
    let responses = wrong.pointer_mut("/paths/~1api~1accounts/post/responses").and_then(Value::as_object_mut);
    responses.context("openapi.json has no create")?.remove("201").context("create promises no 201")?;
    let document = directory.join("wrong.json");
    fs::write(&document, wrong.to_string())?;
    let mut command = command(&document);
    // The example alone: a new account's links lead to tries, each of which takes a second.
    command.args(["--include-path", "/api/accounts", "--include-method", "POST", "--phases", "examples"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let report = String::from_utf8_lossy(&output.stdout);
    ensure!(
        !output.status.success() && report.contains("Undocumented status code"),
        "Schemathesis does not find that a document leaves out a status:\n{report}"
    );
    println!("ok  of a document that leaves out a status Schemathesis tells");
    Ok(())
}

/// Runs `clients/typescript/browser`, pages in Chromium that use the built client, and `clients/web/browser`, the page
/// that is a mail client.
pub(crate) async fn browser() -> Result<()> {
    // A laptop without it can still do all the rest; Debian and CI have it.
    let installed = ensure_installed(&[Tool::Chromium]);
    let Some(chromium) = Tool::Chromium.locate() else {
        let reason = installed.err().context("not installed")?;
        return skip("the browser test", &format!("there is no Chromium ({reason:#})"));
    };
    pages(&chromium).await?;
    mail_client(&chromium).await
}

async fn pages(chromium: &Path) -> Result<()> {
    let client = workspace_root().join("clients/typescript");
    ensure!(client.join("dist/index.js").is_file(), "build the client first: npm --prefix clients/typescript test");
    ensure_installed(&[Tool::Dovecot])?;
    let mail = Dovecot::start()?;
    mail.add_user(MAILBOX, &secret())?;
    mail.deliver(MAILBOX, b"From: joe@mail.example\r\nSubject: Welcome\r\n\r\nHello\r\n")?;
    let provider = Provider::start(&mail)?;
    // The limit of production, so that the page meets it.
    let service = Service::start(50, way_to(&mail, &provider)).await?;
    let cleaned = clean_samples()?;
    let mut command = Command::new("node");
    command
        // One file after the other: each has the origin's port.
        .args(["--test", TEST_TIMEOUT, "--test-concurrency=1", "browser/"])
        .current_dir(client)
        .env("CHROMIUM", chromium)
        .env("CLEANED", cleaned)
        .env("API_URL", service.gateway.url())
        .env("TOKEN", service.token()?)
        .env("HASTY_TOKEN", service.token()?)
        .env("SIGN_IN_TOKEN", service.token()?)
        .env("MAILBOX", MAILBOX);
    tokio::select! {
        outcome = run(command, "the browser test") => outcome,
        failed = service.work() => failed,
    }
}

/// Uses the page of a `cargo dev --demo` of its own. Pictures of it are in `target/screenshots`.
async fn mail_client(chromium: &Path) -> Result<()> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let mut dev = Command::new(std::env::current_exe()?);
    dev.args(["dev", "--demo"])
        .env("PORT", port.to_string())
        // Faster than a person, and not to call anybody.
        .env("RATE_LIMIT_PER_MINUTE", "0")
        .env("MAIL_ISP_DATABASE", "none")
        .env("LOG_LEVEL", "error")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut dev = Dev(dev.spawn().context("cannot start cargo dev")?);
    let said = BufReader::new(dev.0.stderr.take().context("no output of cargo dev")?);
    let (sender, page) = tokio::sync::oneshot::channel();
    thread::spawn(move || {
        let (mut sender, mut is_ready) = (Some(sender), false);
        // To the end, for it would not go on with nobody who listens. What is to be pasted, a token in it, is for nobody here.
        for line in said.lines().map_while(Result::ok) {
            is_ready |= line.starts_with("Ready at ");
            match line.strip_prefix(PAGE_SIGN) {
                Some(url) => drop(sender.take().map(|sender| sender.send(url.to_owned()))),
                None if !is_ready => eprintln!("{line}"),
                None => {}
            }
        }
    });
    let url = page.await.context("cargo dev does not say where the page is, see above")?;
    mail_is_listed((Ipv4Addr::LOCALHOST, port).into()).await?;
    let root = workspace_root();
    let mut command = Command::new("node");
    command
        .args(["--test", TEST_TIMEOUT, "browser/"])
        .current_dir(root.join("clients/web"))
        .env("CHROMIUM", chromium)
        .env("PAGE_URL", url)
        .env("SCREENSHOTS", root.join("target/screenshots"));
    run(command, "the test of the page").await
}

/// Without any page: the demonstration's mailbox is listed soon, and what is delivered there after the next synchronisation.
async fn mail_is_listed(address: SocketAddr) -> Result<()> {
    const SUBJECT: &str = "Delivered past the page";
    let accounts = curl(address, Request::get("/api/accounts"), None).await?;
    let accounts = accounts["accounts"].as_array().context("no list of accounts")?;
    let account = accounts.iter().find(|account| account["emailAddress"] == DEMO_ADDRESS);
    let id = account.and_then(|account| account["id"].as_str()).context("the demonstration has no mailbox")?;
    until_listed(address, "/api/messages", None, |message| message["accountId"] == id).await?;

    let message = json!({ "accountId": id, "to": [{ "address": DEMO_ADDRESS }], "subject": SUBJECT, "text": "Hello" });
    curl(address, Request::post("/api/outbox"), Some(message)).await?;
    // The sender's copy has the same subject.
    let (inbox, sync) = (format!("/api/messages?accountId={id}&role=inbox"), format!("/api/accounts/{id}/sync"));
    until_listed(address, &inbox, Some(&sync), |message| message["subject"] == SUBJECT).await?;
    println!("ok  the demonstration's mailbox is listed, and so is what is delivered there");
    Ok(())
}

/// Asks for messages until one is among them that is waited for; with `sync`, each time for a synchronisation before.
async fn until_listed(
    address: SocketAddr,
    messages: &str,
    sync: Option<&str>,
    is_it: impl Fn(&Value) -> bool,
) -> Result<()> {
    let end = Instant::now() + LISTED_WITHIN;
    loop {
        if let Some(sync) = sync {
            curl(address, Request::post(sync), None).await?;
        }
        let page = curl(address, Request::get(messages), None).await?;
        if page["messages"].as_array().is_some_and(|messages| messages.iter().any(&is_it)) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "what is waited for did not come to {messages} in {LISTED_WITHIN:?}: {page}");
        sleep(Duration::from_millis(500)).await;
    }
}

/// What `curl` would be answered, as the demonstration's user.
async fn curl(address: SocketAddr, request: Builder, body: Option<Value>) -> Result<Value> {
    let request = by(TENANT, USER, request, address).header("Content-Type", "application/json");
    let answer = send(address, request.body(body.map(|body| body.to_string()).unwrap_or_default())?).await?;
    ensure!(answer.status().is_success(), "{} {}", answer.status(), answer.body());
    Ok(serde_json::from_str(answer.body())?)
}

/// A `cargo dev`, which ends with this value.
struct Dev(Child);

impl Drop for Dev {
    fn drop(&mut self) {
        // Its servers go with it, however it ends.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Cleans the samples of `tests/html`, for the browser to look at, and says where they are.
fn clean_samples() -> Result<PathBuf> {
    let samples = |name: &str| -> Result<Value> {
        let path = workspace_root().join("tests/html").join(name).with_extension("json");
        let mut samples: Vec<Value> = serde_json::from_str(&fs::read_to_string(path)?)?;
        for sample in &mut samples {
            let html = sample["html"].as_str().context("a sample has no HTML")?;
            let cleaned = cleaned(html);
            sample["cleaned"] = json!({"html": cleaned.html, "hasRemoteContent": cleaned.has_remote_content});
        }
        Ok(samples.into())
    };
    let directory = workspace_root().join("target/html");
    fs::create_dir_all(&directory)?;
    let path = directory.join("cleaned.json");
    let (hostile, honest) = (samples("hostile")?, samples("honest")?);
    let spliced = splices(&hostile).context("a sample has no HTML")?;
    let fuzzed = fuzz::kept("html")?.iter().map(|input| pair(&String::from_utf8_lossy(input))).collect::<Vec<_>>();
    let samples = json!({"hostile": hostile, "honest": honest, "spliced": spliced, "fuzzed": fuzzed});
    fs::write(&path, samples.to_string())?;
    Ok(path)
}

/// A sample beside what is left of it.
fn pair(html: &str) -> Value {
    json!({"html": html, "cleaned": cleaned(html).html})
}

/// What is left of a message with one picture of its own.
fn cleaned(html: &str) -> Cleaned {
    clean(html, |id| (id == "logo").then(|| "/attachments/1".to_owned()))
}

/// Of hostile samples new ones: the beginning of one, and the end of another, cut anywhere. The same at each run.
fn splices(hostile: &Value) -> Option<Vec<Value>> {
    let samples: Vec<Vec<char>> = hostile
        .as_array()?
        .iter()
        .map(|sample| Some(sample["html"].as_str()?.chars().collect()))
        .collect::<Option<_>>()?;
    // Knuth's numbers for 64 bits.
    let mut state: u64 = 1;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap_or_default() % limit.max(1)
    };
    let splice = |_| {
        let (first, second) = (samples.get(below(samples.len()))?, samples.get(below(samples.len()))?);
        let head = first.iter().take(below(first.len() + 1));
        Some(pair(&head.chain(second.iter().skip(below(second.len() + 1))).collect::<String>()))
    };
    (0..SPLICES).map(splice).collect()
}

/// What the functions need to reach a provider and a mail server of this machine.
fn way_to(mail: &Dovecot, provider: &Provider) -> Vec<(String, String)> {
    [
        ("MAIL_NAME_SERVERS", String::new()),
        ("MAIL_PRIVATE_NETWORKS", "127.0.0.0/8,::1/128".to_owned()),
        ("MAIL_PORTS", "*".to_owned()),
        ("SSL_CERT_FILE", mail.bundle_file().display().to_string()),
        ("OAUTH2_PROVIDERS", json!({"local": provider.settings(mail)}).to_string()),
        ("OAUTH2_REDIRECT_URIS", "http://localhost:3000/connected".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Waits in a thread of its own: the gateway lives on this one's runtime.
async fn run(mut command: Command, what: &str) -> Result<()> {
    let program = Path::new(command.get_program()).display().to_string();
    let status = tokio::task::spawn_blocking(move || command.status()).await?;
    ensure!(status.with_context(|| format!("cannot run {program}"))?.success(), "{what} failed, see above");
    Ok(())
}
