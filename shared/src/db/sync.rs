//! Queries on whether an account is synchronised, of those who ask for it. The SQL of the functions that they call is in
//! `migrations/V9__mail_endpoints.sql`.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::accounts::{Found, account, found, own_or_foreign};
use super::{Access, Db};
use crate::account::AccountId;
use crate::error::Error;
use crate::identity::Scope;
use crate::quota::Quota;
use crate::sync::{Progress, Status, Synchronisation};

/// A synchronisation that was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Requested {
    /// When it was first asked for, in milliseconds since the Unix epoch.
    pub at: i64,
    /// Whether a worker is at it.
    pub is_running: bool,
    wait: Duration,
}

impl Db {
    /// Asks for a synchronisation; while one is asked for or runs, for that one.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] where the server has refused this login less than a minute ago, [`Error::Internal`] when
    /// PostgreSQL fails; so it is with all methods here.
    pub async fn request_sync(&self, scope: &Scope, id: AccountId) -> Result<Found<Requested>, Error> {
        let rows = self
            .query(Access::Write, scope, own_or_foreign!("request_sync($1, $2, $3)"), &[(&id.0, Type::UUID)])
            .await?;
        match found(scope, &rows, requested)? {
            Found::Own(requested) if !requested.wait.is_zero() => {
                Err(Error::TooManyRequests(Quota::of_refused_login(requested.wait)))
            }
            found => Ok(found),
        }
    }

    /// How a synchronisation stands.
    ///
    /// # Errors
    /// See [`Db::request_sync`].
    pub async fn find_sync(&self, scope: &Scope, id: AccountId) -> Result<Found<Synchronisation>, Error> {
        let sql = "select (own.account).*, own.status, own.folders_done, own.folders_total, own.messages_done,
                       own.messages_total, owner.tenant_id as owner_tenant_id, owner.user_id as owner_user_id
                   from (select) as one left join find_sync($1, $2, $3) own on true
                   left join lateral account_owner(case when (own.account).id is null then $3 end) owner on true";
        let rows = self.query(Access::Read, scope, sql, &[(&id.0, Type::UUID)]).await?;
        found(scope, &rows, synchronisation)
    }

    /// Ends the synchronisation that is asked for or runs, if there is one.
    ///
    /// # Errors
    /// See [`Db::request_sync`].
    pub async fn cancel_sync(&self, scope: &Scope, id: AccountId) -> Result<Found<()>, Error> {
        let rows = self
            .query(Access::Write, scope, own_or_foreign!("cancel_sync($1, $2, $3)"), &[(&id.0, Type::UUID)])
            .await?;
        found(scope, &rows, |row| Ok(row.try_get::<_, Option<Uuid>>("id")?.map(|_| ())))
    }
}

fn requested(row: &Row) -> Result<Option<Requested>, tokio_postgres::Error> {
    let Some(wait) = row.try_get::<_, Option<i64>>("wait")? else { return Ok(None) };
    let wait = Duration::from_millis(u64::try_from(wait).unwrap_or_default());
    // Where one has to wait nothing was asked for.
    let at = row.try_get::<_, Option<i64>>("requested_at")?.unwrap_or_default();
    Ok(Some(Requested { at, is_running: row.try_get("is_running")?, wait }))
}

fn synchronisation(row: &Row) -> Result<Option<Synchronisation>, tokio_postgres::Error> {
    let Some(account) = account(row)? else { return Ok(None) };
    let status = match row.try_get("status")? {
        "syncing" => Status::Syncing,
        "queued" => Status::Queued,
        _ => Status::Idle,
    };
    let progress = Progress {
        folders_done: row.try_get("folders_done")?,
        folders_total: row.try_get("folders_total")?,
        messages_done: row.try_get("messages_done")?,
        messages_total: row.try_get("messages_total")?,
    };
    Ok(Some(Synchronisation {
        status,
        state: account.state,
        last_error: account.last_error,
        last_sync_at: account.last_sync_at,
        next_sync_at: account.next_sync_at,
        progress: (status != Status::Idle).then_some(progress),
    }))
}
