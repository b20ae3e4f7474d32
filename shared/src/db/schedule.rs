//! Queries of the schedule, over all tenants. Their role is `email_service_scheduler`, which may call the functions of
//! `migrations/V7__mail.sql` and V8 that answer them, and see no table.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{Access, Db};
use crate::account::AccountId;
use crate::doorbell::Doorbell;
use crate::error::Error;
use crate::identity::{TenantId, UserId};

/// An account that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Whose account, and which: what a worker is told.
    pub doorbell: Doorbell,
    /// For how long it has been.
    pub late: Duration,
}

impl Db {
    /// Takes note that somebody is rung for at most `limit` accounts that are due, and returns them. Where nobody comes,
    /// they are due again after `again`.
    ///
    /// # Errors
    /// [`Error::Internal`] when PostgreSQL fails. Should it have noted them all the same, they are due again later.
    pub async fn claim_due(&self, limit: i32, again: Duration) -> Result<Vec<Due>, Error> {
        let again = i64::try_from(again.as_millis()).unwrap_or(i64::MAX);
        let sql = "select tenant_id, user_id, account_id, epoch_ms() - due_at as late from claim_due($1, $2)";
        let rows = self.run(Access::Write, sql, &[(&limit, Type::INT4), (&again, Type::INT8)]).await?;
        Ok(rows.iter().map(due).collect::<Result<_, _>>()?)
    }
}

fn due(row: &Row) -> Result<Due, tokio_postgres::Error> {
    Ok(Due {
        doorbell: Doorbell {
            tenant_id: TenantId(row.try_get("tenant_id")?),
            user_id: UserId(row.try_get("user_id")?),
            account_id: AccountId(row.try_get("account_id")?),
        },
        late: Duration::from_millis(u64::try_from(row.try_get::<_, i64>("late")?).unwrap_or_default()),
    })
}
