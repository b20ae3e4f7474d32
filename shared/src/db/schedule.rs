//! Queries of the schedule, over all tenants. Their role is `email_service_scheduler`, which may call the functions of
//! `migrations/V7__mail.sql`, V8, V11 and V15 that answer them, and sees no table.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::anyhow;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Access, Db};
use crate::account::AccountId;
use crate::account::state::State;
use crate::composition::UploadId;
use crate::doorbell::Doorbell;
use crate::error::Error;
use crate::identity::{Scope, TenantId, UserId};

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

    /// How many accounts are in each state, of all tenants, by its name in the API.
    ///
    /// # Errors
    /// [`Error::Internal`] when PostgreSQL fails.
    pub async fn count_account_states(&self) -> Result<BTreeMap<String, i64>, Error> {
        // A state in which nobody is has its zero.
        let mut counts: BTreeMap<_, _> = State::ALL.iter().map(|state| (state.as_str().to_owned(), 0)).collect();
        for row in self.run(Access::Read, "select state, accounts from count_account_states()", &[]).await? {
            counts.insert(row.try_get("state")?, row.try_get("accounts")?);
        }
        Ok(counts)
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

    /// Forgets at most `limit` accounts that were deleted `age` ago or earlier and whose mail was purged, with their
    /// credentials, and returns how many.
    ///
    /// # Errors
    /// As [`Db::purge_mail`].
    pub async fn purge_accounts(&self, age: Duration, limit: i32) -> Result<u64, Error> {
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let sql = "select purge_accounts(epoch_ms() - $1, $2)::integer";
        count(&self.run(Access::Write, sql, &[(&age, Type::INT8), (&limit, Type::INT4)]).await?)
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

    /// Forgets at most `limit` answers that were kept for requests that might come again, and returns how many.
    ///
    /// # Errors
    /// As [`Db::purge_mail`].
    pub async fn purge_idempotency_keys(&self, limit: i32) -> Result<u64, Error> {
        count(&self.run(Access::Write, "select purge_idempotency_keys($1)", &[(&limit, Type::INT4)]).await?)
    }

    /// Lets the files go of at most `limit` messages that could not be sent and that nobody has tried again for a month, and
    /// returns of how many.
    ///
    /// # Errors
    /// As [`Db::purge_mail`].
    pub async fn release_files(&self, limit: i32) -> Result<u64, Error> {
        count(&self.run(Access::Write, "select release_files($1)", &[(&limit, Type::INT4)]).await?)
    }

    /// At most `limit` uploads that nothing has used for so long that nothing can any more: whose they are, and which.
    ///
    /// # Errors
    /// [`Error::Internal`] when PostgreSQL fails.
    pub async fn uploads_to_purge(&self, limit: i32) -> Result<Vec<(Scope, UploadId)>, Error> {
        let sql = "select tenant_id, user_id, id from uploads_to_purge($1)";
        let rows = self.run(Access::Read, sql, &[(&limit, Type::INT4)]).await?;
        let upload = |row: &Row| {
            let scope = Scope { tenant_id: TenantId(row.try_get(0)?), user_id: UserId(row.try_get(1)?) };
            Ok((scope, UploadId(row.try_get(2)?)))
        };
        Ok(rows.iter().map(upload).collect::<Result<_, tokio_postgres::Error>>()?)
    }

    /// Forgets these uploads, whose objects are deleted, and returns how many that were.
    ///
    /// # Errors
    /// [`Error::Internal`] when PostgreSQL fails: then they are to be purged once more.
    pub async fn purge_uploads(&self, uploads: &[(Scope, UploadId)]) -> Result<u64, Error> {
        let ids: Vec<_> = uploads.iter().map(|(_, id)| id.0).collect();
        count(&self.run(Access::Write, "select purge_uploads($1)", &[(&ids, Type::UUID_ARRAY)]).await?)
    }
}

/// How many rows a purge says that it deleted.
fn count(rows: &[Row]) -> Result<u64, Error> {
    let row = rows.first().ok_or_else(|| Error::internal(anyhow!("a purge gave no row")))?;
    Ok(u64::try_from(row.try_get::<_, i32>(0)?).unwrap_or_default())
}

pub(super) fn due(row: &Row) -> Result<Due, tokio_postgres::Error> {
    Ok(Due {
        doorbell: Doorbell {
            tenant_id: TenantId(row.try_get("tenant_id")?),
            user_id: UserId(row.try_get("user_id")?),
            account_id: AccountId(row.try_get("account_id")?),
        },
        late: Duration::from_millis(u64::try_from(row.try_get::<_, i64>("late")?).unwrap_or_default()),
    })
}
