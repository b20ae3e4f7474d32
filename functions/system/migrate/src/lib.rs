//! Brings a database's schema up to date with `migrations/`: as a custom resource of the stack, so that a deployment
//! migrates before traffic shifts and stops where that fails; by hand with any other event; and, through [`apply`], in
//! development and in tests.

pub mod keys;
pub mod online;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures_util::FutureExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use postgres_protocol::password::scram_sha_256;
use refinery::Runner;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::config::MigrationConfig;
use shared::db::SCHEMA_VERSION;
use shared::db::url::DatabaseUrl;
use shared::http::header::{CONTENT_TYPE, HOST};
use shared::http::{Request, StatusCode, Uri};
use shared::lambda_runtime::LambdaEvent;
use shared::secrets::{Login, SecretStore, SecretsManager};
use shared::tls::client_config;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

mod embedded {
    refinery::embed_migrations!("../../../migrations");
}

/// The roles that functions log in as: endpoints, those that open sealed secrets, who asks who is due, and who only reads.
const ROLES: [&str; 4] = ["email_service_app", "email_service_mail", "email_service_scheduler", "email_service_reader"];
/// Any number, as long as every migration takes the same lock.
const LOCK: i64 = 0x656d_6169_6c5f_7376;
/// How long to wait for a database that was made a moment ago.
const CONNECT_PATIENCE: Duration = Duration::from_secs(8 * 60);
/// How long to wait for another migration. What is left of [`PATIENCE`] when the database was slow to appear.
const LOCK_PATIENCE: Duration = Duration::from_secs(5 * 60);
/// How long all may take: below the function's own limit (template.yaml, 900 s), for CloudFormation must get an answer.
const PATIENCE: Duration = Duration::from_secs(840);

/// What CloudFormation sends to a custom resource. Any other event has no `ResponseURL`, and its answer is the
/// invocation's own.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Event {
    request_type: String,
    #[serde(rename = "ResponseURL")]
    response_url: Option<String>,
    stack_id: String,
    request_id: String,
    logical_resource_id: String,
    physical_resource_id: Option<String>,
    resource_properties: Properties,
}

/// The custom resource's properties.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Properties {
    /// Which sealing key is current; CloudFormation sends numbers as texts. By hand, the newest that there is.
    sealing_key_generation: Option<String>,
}

/// What a migration did.
struct Migrated {
    applied: Vec<String>,
    /// None where no function seals yet.
    sealing_public_key: Option<String>,
}

/// Answers one event.
///
/// # Errors
/// The migration failed, and there is no CloudFormation to tell; or CloudFormation cannot be told.
pub async fn handler(event: LambdaEvent<Value>) -> anyhow::Result<Value> {
    let event: Event = serde_json::from_value(event.payload).unwrap_or_default();
    let outcome = match event.request_type.as_str() {
        // The database outlives the resource, and may be gone already.
        "Delete" => Ok(Migrated { applied: Vec::new(), sealing_public_key: None }),
        _ => match AssertUnwindSafe(timeout(PATIENCE, migrate(&event.resource_properties))).catch_unwind().await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(anyhow!("the migration took longer than {PATIENCE:?}")),
            Err(_) => Err(anyhow!("the migration panicked, see the log")),
        },
    };
    match &outcome {
        Ok(Migrated { applied, .. }) => tracing::info!(?applied, version = SCHEMA_VERSION, "the schema is up to date"),
        Err(error) => tracing::error!(error = format!("{error:#}"), "the migration failed"),
    }
    match event.response_url.clone() {
        Some(url) => report(&url, &event, &outcome).await.map(|()| Value::Null),
        None => outcome.map(|Migrated { applied, sealing_public_key }| {
            json!({"applied": applied, "schemaVersion": SCHEMA_VERSION, "sealingPublicKey": sealing_public_key})
        }),
    }
}

/// Tells CloudFormation, which waits for an hour where nobody does. Its URL is signed for a request without a content
/// type.
async fn report(url: &str, event: &Event, outcome: &anyhow::Result<Migrated>) -> anyhow::Result<()> {
    let reason = outcome.as_ref().err().map(|error| format!("{error:#}"));
    let answer = json!({
        "Status": if reason.is_none() { "SUCCESS" } else { "FAILED" },
        // An answer may have 4 KB in all.
        "Reason": shared::log::clip(reason.as_deref().unwrap_or("the schema is up to date"), 1000),
        // It never changes: a new one would tell CloudFormation to delete the old resource.
        "PhysicalResourceId": event.physical_resource_id.as_deref().unwrap_or("database-migration"),
        "StackId": event.stack_id,
        "RequestId": event.request_id,
        "LogicalResourceId": event.logical_resource_id,
        "Data": {
            "SchemaVersion": SCHEMA_VERSION.to_string(),
            "SealingPublicKey": outcome.as_ref().ok().and_then(|migrated| migrated.sealing_public_key.as_deref()),
        },
    });
    let tls = TlsConnector::from(client_config()?);
    // No error here names the URL, whose signature is a secret for as long as it is valid.
    let url = url.parse().context("the ResponseURL is none")?;
    let mut last = Ok(());
    for attempt in 0..4 {
        sleep(Duration::from_secs(attempt)).await;
        last = match put(&tls, &url, answer.to_string()).await {
            Ok(status) if status.is_success() => return Ok(()),
            Ok(status) => Err(anyhow!("S3 answered {status}")),
            Err(error) => Err(error),
        };
    }
    last.context("cannot tell CloudFormation: the function needs a way to S3, such as a gateway endpoint")
}

/// Either kind of connection. One type for both, for each would bring an HTTP client of its own.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// One request over a connection of its own: a client with a pool would make the zip larger by a twentieth.
async fn put(tls: &TlsConnector, url: &Uri, body: String) -> anyhow::Result<StatusCode> {
    let (host, is_https) = (url.host().context("the URL names no host")?, url.scheme_str() == Some("https"));
    let port = url.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    let plain = TcpStream::connect((host, port)).await?;
    let connection: Box<dyn Connection> = match is_https {
        true => Box::new(tls.connect(host.to_owned().try_into()?, plain).await?),
        false => Box::new(plain),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(connection)).await?;
    // Its errors reach us as those of the request.
    tokio::spawn(connection);
    let authority = url.authority().context("the URL names no host")?.as_str();
    let path = url.path_and_query().context("the URL has no path")?.as_str();
    let request = Request::put(path).header(HOST, authority).header(CONTENT_TYPE, "").body(body)?;
    Ok(sender.send_request(request).await?.status())
}

/// As the environment says. It is read here and not at the start, for a `Delete` must be answered in any case.
async fn migrate(properties: &Properties) -> anyhow::Result<Migrated> {
    let config = MigrationConfig::from_env()?;
    let mut client = connect_patiently(&config).await?;
    let app = SecretStore::new(config.secrets).get().await?.database;
    let mut passwords = vec![(ROLES[0], app.password().map(<[u8]>::to_vec).map(Zeroizing::new))];
    let mut sealing_public_key = None;
    let manager = SecretsManager::default();
    let password = async |arn: &str| -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
        let login = Login::parse(manager.read(arn).await?.reveal())?;
        Ok(login.password.map(|password| Zeroizing::new(password.reveal().as_bytes().to_vec())))
    };
    if let Some(arn) = &config.mail_secret_arn {
        // Two migrations that both make a key would overwrite each other's, and what was sealed with it would be lost.
        wait_for_others(&client, LOCK_PATIENCE).await?;
        let generation = properties.sealing_key_generation.as_deref().map(str::parse::<u32>).transpose();
        let generation = generation.context("SealingKeyGeneration must be a whole number of 1 or more")?;
        sealing_public_key = Some(keys::ensure(&manager, arn, generation, &client).await?);
        passwords.push((ROLES[1], password(arn).await?));
    }
    for (role, arn) in [(ROLES[2], &config.scheduler_secret_arn), (ROLES[3], &config.reader_secret_arn)] {
        if let Some(arn) = arn {
            passwords.push((role, password(arn).await?));
        }
    }
    let passwords: Vec<_> =
        passwords.iter().filter_map(|(role, password)| Some((*role, password.as_ref()?.as_slice()))).collect();
    let applied = apply_over(&mut client, &passwords).await?;
    Ok(Migrated { applied, sealing_public_key })
}

/// A database and its proxy answer some minutes after they are made. The login is read anew each time: it may be
/// rotated just then.
async fn connect_patiently(config: &MigrationConfig) -> anyhow::Result<Client> {
    let started = Instant::now();
    let manager = SecretsManager::default();
    let address = parse(config.owner_database_url.reveal()).context("OWNER_DATABASE_URL is not usable")?;
    loop {
        let attempt = async {
            let mut url = address.clone();
            if let Some(arn) = &config.owner_secret_arn {
                Login::parse(manager.read(arn).await?.reveal())?.fill_in(&mut url);
            }
            url.connect().await
        };
        match attempt.await {
            Err(error) if started.elapsed() < CONNECT_PATIENCE => {
                tracing::warn!(error = format!("{error:#}"), "trying again");
                sleep(Duration::from_secs(5)).await;
            }
            outcome => return outcome,
        }
    }
}

/// The migrations, in order, with the table that records them.
pub fn runner() -> Runner {
    let mut runner = embedded::migrations::runner().set_abort_missing(false);
    runner.set_migration_table_name("schema_migrations");
    runner
}

/// Applies what is missing and returns its names; none the second time. Two at once wait for each other.
///
/// `owner_url` logs in as a role that may create roles and tables. Each of `urls` logs in as one of the functions' roles,
/// whose password becomes the one in it.
///
/// # Errors
/// The database cannot be reached; a migration fails, and is rolled back as a whole; a migration that was applied has
/// been edited since. Newer ones than we know are none: an older release is being deployed again.
pub async fn apply(owner_url: &str, urls: &[String]) -> anyhow::Result<Vec<String>> {
    let owner = parse(owner_url).context("the owner's database URL is not usable")?;
    let urls = urls.iter().map(|url| parse(url)).collect::<anyhow::Result<Vec<_>>>();
    let urls = urls.context("the functions' database URL is not usable")?;
    let login = |url: &'_ DatabaseUrl| {
        let role = ROLES.into_iter().find(|role| url.user() == Some(role));
        role.with_context(|| format!("the functions' database URL must log in as one of {}", ROLES.join(", ")))
    };
    let mut passwords = Vec::new();
    for url in &urls {
        if let Some(password) = url.password() {
            passwords.push((login(url)?, password));
        }
    }
    apply_over(&mut owner.connect().await?, &passwords).await
}

async fn apply_over(client: &mut Client, passwords: &[(&str, &[u8])]) -> anyhow::Result<Vec<String>> {
    wait_for_others(client, LOCK_PATIENCE).await?;
    let before = versions(client).await?;
    loop {
        match apply_once(client, passwords).await {
            // That lock is this database's. Roles are the whole server's, and another of its databases may be migrated at
            // the same moment; PostgreSQL has no code of its own for that.
            Err(error) if format!("{error:#}").contains("tuple concurrently updated") => {}
            outcome => {
                outcome?;
                break;
            }
        }
    }
    online::finish(client).await?;
    // Asked of the database: an attempt that fails half-way does not tell what it did.
    let after = versions(client).await?;
    let is_new = |version: &i64| after.contains(version) && !before.contains(version);
    let runner = runner();
    let new = runner.get_migrations().iter().filter(|migration| is_new(&migration.version().into()));
    let mut new: Vec<_> = new.map(|migration| (migration.version(), migration.to_string())).collect();
    new.sort();
    Ok(new.into_iter().map(|(_, name)| name).collect())
}

/// The versions of the migrations that the database has; none where there was never one.
async fn versions(client: &Client) -> anyhow::Result<Vec<i64>> {
    let table = client.query_typed("select to_regclass('schema_migrations') is not null", &[]).await?;
    if !table.first().is_some_and(|row| row.try_get(0).unwrap_or(false)) {
        return Ok(Vec::new());
    }
    let rows = client.query_typed("select version::bigint from schema_migrations", &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Takes the lock that every migration of a database takes. It is held until the connection closes, which it does on
/// every way out of here.
///
/// # Errors
/// Another connection still holds it after `patience`; the error says which, and since when it has done nothing. That
/// of a function that was killed lives on until the proxy misses its client, for half an hour.
pub async fn wait_for_others(client: &Client, patience: Duration) -> anyhow::Result<()> {
    const TAKE: &str = "select pg_try_advisory_lock($1)";
    const HOLDER: &str = "select format('process %s, %s since %s', pid, state, state_change) \
        from pg_locks join pg_stat_activity using (pid) \
        where locktype = 'advisory' and granted and (classid::int8 << 32 | objid::int8) = $1 \
            and database = (select oid from pg_database where datname = current_database())";
    let ask = async |statement: &str| client.query_typed(statement, &[(&LOCK, Type::INT8)]).await;
    let started = Instant::now();
    loop {
        let answer = ask(TAKE).await.context("cannot wait for other migrations")?;
        if answer.first().is_some_and(|row| row.try_get(0).unwrap_or(false)) {
            return Ok(());
        }
        if started.elapsed() >= patience {
            let answer = ask(HOLDER).await?;
            let holder = answer.first().and_then(|row| row.try_get(0).ok()).unwrap_or("just gone");
            bail!("another migration holds the lock ({holder}): wait for its end, or end it by pg_terminate_backend");
        }
        sleep(Duration::from_millis(250)).await;
    }
}

async fn apply_once(client: &mut Client, passwords: &[(&str, &[u8])]) -> anyhow::Result<()> {
    runner().run_async(client).await.context("a migration failed")?;
    for (role, password) in passwords {
        set_password(client, role, password).await.with_context(|| format!("cannot set the password of {role}"))?;
    }
    Ok(())
}

fn parse(url: &str) -> anyhow::Result<DatabaseUrl> {
    DatabaseUrl::parse(url).ok_or_else(|| anyhow!("it must be postgres://user:password@host:port/database"))
}

/// Sends the SCRAM verifier and not the password, which the server would log along with a failing statement.
async fn set_password(client: &Client, role: &str, password: &[u8]) -> anyhow::Result<()> {
    let verifier = scram_sha_256(password);
    let statement = client
        .query_typed(
            "select format('alter role %I password %L', $1, $2)",
            &[(&role, Type::TEXT), (&verifier, Type::TEXT)],
        )
        .await?;
    let statement: &str = statement.first().ok_or_else(|| anyhow!("format gave no row"))?.try_get(0)?;
    client.batch_execute(statement).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_know_the_newest_migration() {
        let newest = runner().get_migrations().iter().map(|m| m.version()).max();
        assert_eq!(newest.map(i64::from), Some(i64::from(SCHEMA_VERSION)));
    }
}
