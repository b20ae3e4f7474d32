//! PostgreSQL: the pool, and the one way to run a statement.
//!
//! A request is one statement and one round trip. The statement calls a function of
//! `migrations/V3__account_functions.sql` or a later one, which sets the row-level security context and runs the query inside
//! the statement's own transaction; it is sent unnamed, parse, bind and execute in one flight. So there is
//! no session state: PgBouncer in transaction mode and RDS Proxy can stand in between, a future that is dropped
//! leaves no transaction open, and a pooled connection carries nothing from one caller to the next.

pub mod accounts;
pub mod authorizations;
pub mod changes;
pub mod drafts;
pub mod mailboxes;
pub mod messages;
pub mod outbox;
pub mod schedule;
pub mod secrets;
pub mod sync;
pub mod tokens;
pub mod url;
pub mod visits;

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use deadpool_postgres::{
    Connect, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime,
};
use futures_util::TryStreamExt;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::Error;
use crate::identity::Scope;
use crate::secrets::SecretStore;

use url::{CONNECT_TIMEOUT, open, tls_of};

/// The newest migration that the queries here rely on; readiness compares it with the database.
/// A test compares it with the files in `migrations/`.
pub const SCHEMA_VERSION: i32 = 27;

/// How long a request may wait for PostgreSQL in all. The role's `statement_timeout` (4 s, V1) strikes first; this
/// is for a server that does not answer at all. Below the functions' own limit (template.yaml, 10 s).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(6);

/// Opens the pool's connections with the secrets as they are by then.
struct Connector {
    secrets: Arc<SecretStore>,
    tls: Option<MakeRustlsConnect>,
}

impl Connect for Connector {
    fn connect(
        &self,
        configured: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + '_>> {
        let configured = configured.clone();
        Box::pin(async move {
            // Not the ones of the start: they may have been rotated since.
            let current = self.secrets.get().await.map_or(configured, |secrets| secrets.database.0);
            open(&current, self.tls.clone()).await
        })
    }
}

/// What a statement does to the database: whether it may be sent a second time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// The way to PostgreSQL.
#[derive(Clone)]
pub struct Db {
    pool: Pool,
    secrets: Arc<SecretStore>,
    /// Whether there is a key to open sealed secrets.
    opens: bool,
    /// Microseconds that requests have waited here.
    waited: Arc<AtomicU64>,
}

impl Db {
    /// A pool of at most `size` connections, none open yet. One that was unused for `max_idle` (see
    /// [`crate::MAX_IDLE`]) is not lent any more but replaced.
    ///
    /// # Errors
    /// TLS is wanted and cannot be set up.
    pub async fn new(secrets: Arc<SecretStore>, size: usize, max_idle: Duration) -> anyhow::Result<Self> {
        let current = secrets.get().await?;
        let opens = current.sealing_private_keys.is_some();
        let config = current.database.0;
        let tls = tls_of(&config)?;
        let manager = Manager::from_connect(
            config,
            Connector { secrets: secrets.clone(), tls },
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager)
            .runtime(Runtime::Tokio1)
            .max_size(size)
            .wait_timeout(Some(REQUEST_TIMEOUT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .pre_recycle(Hook::sync_fn(move |_, metrics| {
                if metrics.last_used() < max_idle { Ok(()) } else { Err(HookError::message("unused for too long")) }
            }))
            .build()
            .context("the connection pool cannot be built")?;
        Ok(Self { pool, secrets, opens, waited: Arc::default() })
    }

    /// The same pool with a stopwatch of its own, for one request.
    pub fn for_request(&self) -> Self {
        Self { waited: Arc::default(), ..self.clone() }
    }

    /// How long statements have taken, connecting included.
    pub fn waited(&self) -> Duration {
        Duration::from_micros(self.waited.load(Ordering::Relaxed))
    }

    /// Opens the first connection, so that no request pays for it. A database that is away is no reason not to
    /// start: it may be back for the next request. What is answered tells whether this function may work with its role at
    /// all, and is to be awaited beside the first request, which waits for the connection until then.
    ///
    /// # Errors
    /// The role is one that row-level security does not hold, or one that may read sealed secrets where there is no key
    /// to open them.
    pub async fn warm_up(&self) -> impl Future<Output = anyhow::Result<()>> + Send + use<> {
        let (db, tried_at) = (self.clone(), Instant::now());
        let opened = timeout(REQUEST_TIMEOUT, self.pool.get()).await;
        async move {
            let accepted = match opened {
                Ok(opened) => timeout(REQUEST_TIMEOUT, db.accept(tried_at, opened)).await,
                Err(elapsed) => Err(elapsed),
            };
            match accepted {
                Ok(Ok(_)) => {}
                Ok(Err(error @ NoConnection::Refused(_))) => bail!(error),
                Ok(Err(error)) => tracing::warn!(error = describe(&error), "PostgreSQL is away; starting all the same"),
                Err(_) => tracing::warn!("PostgreSQL does not answer; starting all the same"),
            }
            Ok(())
        }
    }

    /// Runs one statement in one round trip. `$1` and `$2` are always the caller's tenant and user.
    async fn query(
        &self,
        access: Access,
        scope: &Scope,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Row>, Error> {
        self.query_as(access, scope, sql, params, |row| row).await
    }

    /// As [`Self::query`], where there are many rows: each is read while the next are on their way.
    async fn query_as<T>(
        &self,
        access: Access,
        scope: &Scope,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
        mut read: impl FnMut(Row) -> T,
    ) -> Result<Vec<T>, Error> {
        let mut all: Vec<(&(dyn ToSql + Sync), Type)> = Vec::with_capacity(params.len() + 2);
        all.push((&scope.tenant_id.0, Type::UUID));
        all.push((&scope.user_id.0, Type::UUID));
        all.extend(params.iter().cloned());
        match self.run_as(access, sql, &all, &mut read).await {
            // PostgreSQL has undone all of it, and what was in the way is through: once more, before the client has to.
            Err(Error::Unavailable(_)) => self.run_as(access, sql, &all, &mut read).await,
            outcome => outcome,
        }
    }

    async fn run(&self, access: Access, sql: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, Error> {
        self.run_as(access, sql, params, |row| row).await
    }

    /// A connection that turns out to be lost was so before this request, mostly: a network forgets those that are
    /// quiet. So a read is sent once more, over another one. Of a write nobody knows whether it was done; but one that a
    /// database that only reads has refused was not.
    async fn run_as<T>(
        &self,
        access: Access,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
        mut read: impl FnMut(Row) -> T,
    ) -> Result<Vec<T>, Error> {
        let started = Instant::now();
        let mut lent = None;
        let answer = timeout(REQUEST_TIMEOUT, async {
            if access == Access::Write {
                // A function that thaws learns of the request and of what became of its connections at once. Their
                // tasks come first, so that the pool knows of those that were closed.
                tokio::task::yield_now().await;
            }
            let mut answer = rows(lent.insert(self.lend().await?), sql, params, &mut read).await;
            let is_nothing_done = answer.as_ref().is_err_and(is_read_only);
            if is_nothing_done || answer.as_ref().is_err_and(is_lost) {
                // The pool's others were quiet for as long, or lead to the same place.
                lent.take().map(Object::take);
                self.pool.retain(|_, _| false);
                if access == Access::Read || is_nothing_done {
                    answer = rows(lent.insert(self.lend().await?), sql, params, &mut read).await;
                }
                if answer.as_ref().is_err_and(is_read_only) {
                    lent.take().map(Object::take);
                }
            }
            answer.map_err(Error::from)
        })
        .await;
        self.waited.fetch_add(u64::try_from(started.elapsed().as_micros()).unwrap_or_default(), Ordering::Relaxed);
        answer.unwrap_or_else(|_| {
            // Its answer may still come: nobody else may get this connection.
            lent.take().map(Object::take);
            Err(Error::internal(anyhow!("PostgreSQL did not answer within {REQUEST_TIMEOUT:?}")))
        })
    }

    async fn lend(&self) -> Result<Object, Error> {
        let lent = self.connection().await;
        lent.map_err(|error| Error::internal(anyhow!(describe(&error)).context("no connection to PostgreSQL")))
    }

    /// A connection of the pool. Where PostgreSQL refuses the login, be it on connecting or with the first statement
    /// as RDS Proxy does, the secret was probably rotated: it is read again, and then tried once more.
    async fn connection(&self) -> Result<Object, NoConnection> {
        let tried_at = Instant::now();
        self.accept(tried_at, self.pool.get().await).await
    }

    async fn accept(&self, tried_at: Instant, opened: Result<Object, PoolError>) -> Result<Object, NoConnection> {
        let refused = match self.check(opened).await {
            Err(error) if is_refused_login(&error) => error,
            other => return other,
        };
        match self.secrets.refresh(tried_at).await {
            Ok(true) => self.check(self.pool.get().await).await,
            Ok(false) => Err(refused),
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    "PostgreSQL refused the login, and the secret cannot be read again"
                );
                Err(refused)
            }
        }
    }

    /// Of a role that row-level security does not hold we want no connection: each is looked at before it is lent for the
    /// first time.
    async fn check(&self, opened: Result<Object, PoolError>) -> Result<Object, NoConnection> {
        let connection = opened?;
        if Object::metrics(&connection).recycled.is_some() {
            return Ok(connection);
        }
        let mut unknown = Unknown(Some(connection));
        if let Some(client) = &unknown.0 {
            refuse_powerful_role(client, self.opens).await?;
        }
        Ok(unknown.0.take().ok_or(PoolError::Closed)?)
    }

    /// The newest migration that the database has.
    ///
    /// # Errors
    /// PostgreSQL does not answer, or was never migrated.
    pub async fn schema_version(&self) -> Result<i32, Error> {
        let rows = self.run(Access::Read, "select max(version) from schema_migrations", &[]).await?;
        let version = rows.first().and_then(|row| row.try_get(0).ok());
        version.ok_or_else(|| Error::internal(anyhow!("the database has no schema: run the migrations")))
    }
}

async fn rows<T>(
    client: &Client,
    sql: &str,
    params: &[(&(dyn ToSql + Sync), Type)],
    read: impl FnMut(Row) -> T,
) -> Result<Vec<T>, tokio_postgres::Error> {
    let params = params.iter().map(|(value, kind)| (*value, kind.clone()));
    client.query_typed_raw(sql, params).await?.map_ok(read).try_collect().await
}

/// Why there is no connection to lend.
#[derive(Debug, thiserror::Error)]
enum NoConnection {
    /// None could be opened, or all are in use.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Its role was asked for, in vain.
    #[error(transparent)]
    Unknown(#[from] tokio_postgres::Error),
    /// It is not one to work with.
    #[error("{0}")]
    Refused(String),
}

/// A connection of whose role nobody knows yet. Where that is not found out, the pool does not get it back.
struct Unknown(Option<Object>);

impl Drop for Unknown {
    fn drop(&mut self) {
        self.0.take().map(Object::take);
    }
}

/// Of a role that row-level security does not hold we want no connection; nor, without private keys (`opens`), of one that
/// may read what they open. What counts is in `migrations/V20__role_powers.sql`.
async fn refuse_powerful_role(client: &Client, opens: bool) -> Result<(), NoConnection> {
    let rows = match client.query_typed("select * from role_powers()", &[]).await {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_FUNCTION) => return refuse_older_schema(client).await,
        answer => answer?,
    };
    for row in rows {
        let role: String = row.try_get("role")?;
        if !row.try_get::<_, bool>("is_bound")? {
            return Err(NoConnection::Refused(format!(
                "row-level security does not bind {role}: it must be on, and DATABASE_URL must log in as a role that \
                 owns no table and cannot bypass it, such as email_service_app"
            )));
        }
        if !opens && row.try_get("reads_secrets")? {
            return Err(NoConnection::Refused(format!(
                "{role} may read sealed secrets, which is for functions with private keys: DATABASE_URL must log in as a \
                 role that may not, such as email_service_app"
            )));
        }
    }
    Ok(())
}

/// A database without the tables has nothing to fence yet. One that has them cannot say what a role may do.
async fn refuse_older_schema(client: &Client) -> Result<(), NoConnection> {
    let rows = client.query_typed("select to_regclass('email_accounts') is null", &[]).await?;
    match rows.first().map(|row| row.try_get(0)) {
        Some(Ok(true)) => Ok(()),
        _ => Err(NoConnection::Refused("the database is older than this release: run the migrations".to_owned())),
    }
}

/// Whether the connection is gone with the statement: cut, given up by a proxy (class 08), or its server's process
/// told to end (class 57P).
fn is_lost(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => code.code().starts_with("08") || code.code().starts_with("57P"),
        None => error.is_closed() || error.source().is_some_and(|cause| cause.is::<std::io::Error>()),
    }
}

/// Whether this is a database that only reads: after a failover a host's name may lead to what was the writer before.
fn is_read_only(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
}

/// Whether PostgreSQL does not accept who we say we are: class 28 as a whole, for RDS Proxy says 28000 where
/// PostgreSQL says 28P01.
fn is_refused_login(error: &NoConnection) -> bool {
    let (NoConnection::Pool(PoolError::Backend(error)) | NoConnection::Unknown(error)) = error else {
        return false;
    };
    error.code().is_some_and(|code| code.code().starts_with("28"))
}

/// The driver's `Display` leaves the cause out.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
