//! Queries of the schedule, over all tenants. Their role is `email_service_scheduler`, which may call the functions of
//! `migrations/V7__mail.sql`, V8 and V11 that answer them, and sees no table.

use std::time::Duration;

use anyhow::anyhow;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

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

/// Rows that a purge deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    /// Messages of deleted accounts.
    pub messages: u64,
    /// Folders of deleted accounts.
    pub folders: u64,
    /// Of what was destroyed: that of deleted accounts, and what is too old to be asked for.
    pub destroyed: u64,
    /// Accounts of which nothing is left. They are not deleted themselves.
    pub accounts: u64,
}

impl Purged {
    /// Of all kinds.
    pub fn total(&self) -> u64 {
        self.messages + self.folders + self.destroyed + self.accounts
    }
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

    /// Deletes at most `limit` rows of what deleted accounts had, and of what was destroyed 30 days ago. As long as it is
    /// so many there may be more.
    ///
    /// # Errors
    /// [`Error::Internal`] when PostgreSQL fails: then nothing was deleted.
    pub async fn purge_mail(&self, limit: i32) -> Result<Purged, Error> {
        let rows = self.run(Access::Write, "select * from purge_mail($1)", &[(&limit, Type::INT4)]).await?;
        let row = rows.first().ok_or_else(|| Error::internal(anyhow!("a purge gave no row")))?;
        let count = |name: &str| row.try_get::<_, i32>(name).map(|count| u64::try_from(count).unwrap_or_default());
        Ok(Purged {
            messages: count("messages")?,
            folders: count("folders")?,
            destroyed: count("destroyed")?,
            accounts: count("accounts")?,
        })
    }

    /// At most `limit` accounts that were deleted `age` ago or earlier and of which the object store may still have
    /// something: tenant and account.
    ///
    /// # Errors
    /// [`Error::Internal`] when PostgreSQL fails.
    pub async fn accounts_with_objects(&self, age: Duration, limit: i32) -> Result<Vec<(Uuid, Uuid)>, Error> {
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let sql = "select tenant_id, account_id from accounts_with_objects($1, $2)";
        let rows = self.run(Access::Read, sql, &[(&age, Type::INT8), (&limit, Type::INT4)]).await?;
        Ok(rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<_, tokio_postgres::Error>>()?)
    }

    /// Takes note that the object store has nothing of an account any more.
    ///
    /// # Errors
    /// [`Error::Internal`] when PostgreSQL fails: then it is looked for once more.
    pub async fn forget_objects(&self, account: Uuid) -> Result<(), Error> {
        self.run(Access::Write, "select forget_objects($1)", &[(&account, Type::UUID)]).await?;
        Ok(())
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
