//! The API as others use it: by Schemathesis, and by a page in a browser, each against a service of its own.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use jsonwebtoken::{EncodingKey, Header};
use local::{
    build::build_functions,
    gateway::{Gateway, Options},
    install::{Tool, ensure_installed},
    services::{Postgres, Redis, secret},
    template,
    tools::{SCHEMATHESIS, python_tool},
    workspace_root,
};

use crate::functions::SealingKeys;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::skip;

const DATABASE: &str = "email_service";

/// The way to mail hosts as good as shut: the hosts are made up here, and some of them may be somebody's. No name server
/// answers, and of ports only one is open that no example and no limit has.
const NO_WAY_OUT: [(&str, &str); 3] =
    [("MAIL_NAME_SERVERS", "127.0.0.1:1"), ("MAIL_ISP_DATABASE", "none"), ("MAIL_PORTS", "52525")];

/// The service with servers of its own, on a free port, until it is dropped.
struct Service {
    gateway: Gateway,
    key: String,
    _postgres: Postgres,
    _redis: Redis,
}

impl Service {
    /// Accepts tokens only, as in production; `rate_limit` requests per minute and user, 0 for any number.
    async fn start(rate_limit: u32) -> Result<Self> {
        ensure_installed(&[Tool::PostgreSql, Tool::Redis])?;
        let (postgres, redis, key) = (Postgres::start()?, Redis::start()?, secret());
        postgres.create_database(DATABASE).await?;
        migrate::apply(&postgres.owner_url(DATABASE), &postgres.role_urls(DATABASE)).await?;
        let mut functions = template::routes(&workspace_root().join("template.yaml"))?;
        functions.retain(|function| !function.routes.is_empty());
        let binaries = build_functions(false, functions.iter().map(|function| &function.binary))?;
        let mut options = Options::new(functions, binaries);
        options.env = vec![
            ("DATABASE_URL".into(), postgres.app_url(DATABASE)),
            ("REDIS_URL".into(), redis.url()),
            ("JWT_SECRET_KEY".into(), key.clone()),
            ("RATE_LIMIT_PER_MINUTE".into(), rate_limit.to_string()),
        ];
        options.env.extend(NO_WAY_OUT.map(|(name, value)| (name.to_owned(), value.to_owned())));
        SealingKeys::new()?.hand_to(&mut options, postgres.mail_url(DATABASE), postgres.scheduler_url(DATABASE));
        // What goes wrong shows at the caller; thousands of request lines would bury it.
        options.log = Arc::new(|_, _| {});
        let gateway = Gateway::start(options).await?;
        gateway.prewarm();
        Ok(Self { gateway, key, _postgres: postgres, _redis: redis })
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
    let service = Service::start(0).await?;
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

/// Runs `clients/typescript/browser`: pages in Chromium that use the built client.
pub(crate) async fn browser() -> Result<()> {
    // A laptop without it can still do all the rest; Debian and CI have it.
    let installed = ensure_installed(&[Tool::Chromium]);
    let Some(chromium) = Tool::Chromium.locate() else {
        let reason = installed.err().context("not installed")?;
        return skip("the browser test", &format!("there is no Chromium ({reason:#})"));
    };
    let client = workspace_root().join("clients/typescript");
    ensure!(client.join("dist/index.js").is_file(), "build the client first: npm --prefix clients/typescript test");
    // The limit of production, so that the page meets it.
    let service = Service::start(50).await?;
    let mut command = Command::new("node");
    command
        .args(["--test", "browser/"])
        .current_dir(client)
        .env("CHROMIUM", chromium)
        .env("API_URL", service.gateway.url())
        .env("TOKEN", service.token()?)
        .env("HASTY_TOKEN", service.token()?);
    run(command, "the browser test").await
}

/// Waits in a thread of its own: the gateway lives on this one's runtime.
async fn run(mut command: Command, what: &str) -> Result<()> {
    let program = Path::new(command.get_program()).display().to_string();
    let status = tokio::task::spawn_blocking(move || command.status()).await?;
    ensure!(status.with_context(|| format!("cannot run {program}"))?.success(), "{what} failed, see above");
    Ok(())
}
