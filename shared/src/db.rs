//! PostgreSQL: the pool, and the one way to run a statement.
//!
//! A request is one statement and one round trip. The statement calls a function of
//! `migrations/V3__account_functions.sql` or a later one, which sets the row-level security context and runs the query inside
//! the statement's own transaction; it is sent unnamed, parse, bind and execute in one flight. So there is
//! no session state: PgBouncer in transaction mode and RDS Proxy can stand in between, a future that is dropped
//! leaves no transaction open, and a pooled connection carries nothing from one caller to the next.

pub mod accounts;
pub mod url;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use deadpool_postgres::{
    Connect, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime,
};
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
pub const SCHEMA_VERSION: i32 = 5;

/// How long a request may wait for PostgreSQL in all. The role's `statement_timeout` (4 s, V1) strikes first; this
/// is for a server that does not answer at all. Below the functions' own limit (template.yaml, 10 s).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(6);

/// Opens the pool's connections with the secrets as they are; after a refused password, with the secrets as
/// they have become.
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
            // The cached secrets, not the ones of the start: they may have been rotated since.
            let current = self.secrets.get().await.map_or(configured, |secrets| secrets.database.0);
            let refused = match open(&current, self.tls.clone()).await {
                Err(error) if error.code() == Some(&SqlState::INVALID_PASSWORD) => error,
                other => return other,
            };
            match self.secrets.refresh().await {
                Ok(Some(secrets)) => {
                    tracing::warn!("PostgreSQL refused the password; read the secret again");
                    open(&secrets.database.0, self.tls.clone()).await
                }
                Ok(None) => Err(refused),
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "PostgreSQL refused the password, and the secret cannot be read again"
                    );
                    Err(refused)
                }
            }
        })
    }
}

/// The way to PostgreSQL.
#[derive(Clone)]
pub struct Db {
    pool: Pool,
    /// Microseconds that requests have waited here.
    waited: Arc<AtomicU64>,
}

impl Db {
    /// A pool of at most `size` connections, none open yet.
    ///
    /// # Errors
    /// TLS is wanted and cannot be set up.
    pub async fn new(secrets: Arc<SecretStore>, size: usize) -> anyhow::Result<Self> {
        let config = secrets.get().await?.database.0;
        let tls = tls_of(&config)?;
        let manager = Manager::from_connect(
            config,
            Connector { secrets, tls },
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager)
            .runtime(Runtime::Tokio1)
            .max_size(size)
            .wait_timeout(Some(REQUEST_TIMEOUT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .post_create(Hook::async_fn(|client, _| Box::pin(refuse_powerful_role(client))))
            .build()
            .context("the connection pool cannot be built")?;
        Ok(Self { pool, waited: Arc::default() })
    }

    /// The same pool with a stopwatch of its own, for one request.
    pub fn for_request(&self) -> Self {
        Self { pool: self.pool.clone(), waited: Arc::default() }
    }

    /// How long statements have taken, connecting included.
    pub fn waited(&self) -> Duration {
        Duration::from_micros(self.waited.load(Ordering::Relaxed))
    }

    /// Opens the first connection, so that no request pays for it. A database that is away is no reason not to
    /// start: it may be back for the next request.
    ///
    /// # Errors
    /// The role is one that row-level security does not hold.
    pub async fn warm_up(&self) -> anyhow::Result<()> {
        match timeout(REQUEST_TIMEOUT, self.pool.get()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error @ PoolError::PostCreateHook(HookError::Message(_)))) => bail!(error),
            Err(_) => {
                tracing::warn!("PostgreSQL does not answer; starting all the same");
                Ok(())
            }
            Ok(Err(error)) => {
                tracing::warn!(error = describe(&error), "PostgreSQL is away; starting all the same");
                Ok(())
            }
        }
    }

    /// Runs one statement in one round trip. `$1` and `$2` are always the caller's tenant and user.
    async fn query(&self, scope: &Scope, sql: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, Error> {
        let mut all: Vec<(&(dyn ToSql + Sync), Type)> = Vec::with_capacity(params.len() + 2);
        all.push((&scope.tenant_id.0, Type::UUID));
        all.push((&scope.user_id.0, Type::UUID));
        all.extend(params.iter().cloned());
        match self.run(sql, &all).await {
            // PostgreSQL has undone all of it, and what was in the way is through: once more, before the client has to.
            Err(Error::Unavailable(_)) => self.run(sql, &all).await,
            outcome => outcome,
        }
    }

    async fn run(&self, sql: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, Error> {
        let started = Instant::now();
        let mut lent = None;
        let answer = timeout(REQUEST_TIMEOUT, async {
            let client = lent.insert(
                self.pool
                    .get()
                    .await
                    .map_err(|e| Error::internal(anyhow!(describe(&e)).context("no connection to PostgreSQL")))?,
            );
            client.query_typed(sql, params).await.map_err(Error::from)
        })
        .await;
        self.waited.fetch_add(u64::try_from(started.elapsed().as_micros()).unwrap_or_default(), Ordering::Relaxed);
        answer.unwrap_or_else(|_| {
            // Its answer may still come: nobody else may get this connection.
            if let Some(client) = lent {
                drop(Object::take(client));
            }
            Err(Error::internal(anyhow!("PostgreSQL did not answer within {REQUEST_TIMEOUT:?}")))
        })
    }

    /// The newest migration that the database has.
    ///
    /// # Errors
    /// PostgreSQL does not answer, or was never migrated.
    pub async fn schema_version(&self) -> Result<i32, Error> {
        let rows = self.run("select max(version) from schema_migrations", &[]).await?;
        let version = rows.first().and_then(|row| row.try_get(0).ok());
        version.ok_or_else(|| Error::internal(anyhow!("the database has no schema: run the migrations")))
    }
}

/// A role that bypasses the policies, or that owns the tables and could drop them, would make row-level security
/// a decoration. So would one that can become such a role: membership is enough, inherited or not. A policy that names
/// its roles is for those that see past the others, such as the owner of `account_owner`.
///
/// In one statement: in a new connection each catalog that is asked takes half a millisecond. TRUNCATE is an
/// owner's privilege, and knows no policies. A database without the tables has nothing to fence yet.
async fn refuse_powerful_role(client: &Client) -> Result<(), HookError> {
    let sql = "select current_user::text,
                   row_security_active(to_regclass('email_accounts'))
                   and row_security_active(to_regclass('email_credentials'))
                   and not has_table_privilege(to_regclass('email_accounts'), 'truncate')
                   and not has_table_privilege(to_regclass('email_credentials'), 'truncate')
                   and not pg_has_role(to_regrole('email_service_owner'), 'member')
                   and not exists (
                       select from pg_roles r where (r.rolsuper or r.rolbypassrls) and pg_has_role(r.oid, 'member')
                   )
                   and not exists (
                       select from pg_policy p, unnest(p.polroles) role
                       where p.polrelid in (to_regclass('email_accounts'), to_regclass('email_credentials'))
                           and role <> 0 and pg_has_role(role, 'member')
                   )";
    for row in client.query_typed(sql, &[]).await.map_err(HookError::Backend)? {
        if row.try_get::<_, Option<bool>>(1).map_err(HookError::Backend)? == Some(false) {
            let role: String = row.try_get(0).map_err(HookError::Backend)?;
            return Err(HookError::message(format!(
                "row-level security does not bind {role}: it must be on, and DATABASE_URL must log in as a role that \
                 owns no table and cannot bypass it, such as email_service_app"
            )));
        }
    }
    Ok(())
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
