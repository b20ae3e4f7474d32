//! Queries on the accounts and their credentials. Each is one statement; the SQL of the functions that they call
//! is in `migrations/V3__account_functions.sql`.

use anyhow::anyhow;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{Access, Db};
use crate::account::{Account, AccountChange, AccountId, CredentialId, NewAccount};
use crate::credential::{ALGORITHM, Credential};
use crate::error::{Error, NO_SUCH_ACCOUNT, NOT_YOURS};
use crate::identity::{Scope, TenantId, UserId};

/// A page of a user's accounts.
#[derive(Debug)]
pub struct Page {
    /// Newest first.
    pub accounts: Vec<Account>,
    /// How many there are on all pages.
    pub total: i64,
}

/// What a search by id found.
#[derive(Debug)]
pub enum Found {
    /// The caller's own account.
    Own(Box<Account>),
    /// An account of somebody else.
    Foreign(Scope),
    /// No account, or a deleted one.
    Nothing,
}

impl Found {
    /// The caller's own account.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for somebody else's, which is also logged; [`Error::NotFound`] for none.
    pub fn own(self, caller: &Scope, id: AccountId) -> Result<Account, Error> {
        match self {
            Self::Own(account) => Ok(*account),
            Self::Foreign(owner) => {
                tracing::warn!(
                    accountId = %id,
                    tenantId = %caller.tenant_id,
                    userId = %caller.user_id,
                    ownerTenantId = %owner.tenant_id,
                    ownerUserId = %owner.user_id,
                    "cross_tenant_access_blocked"
                );
                Err(Error::Forbidden(NOT_YOURS))
            }
            Self::Nothing => Err(Error::NotFound(NO_SUCH_ACCOUNT)),
        }
    }
}

/// The statement that runs a function which yields the caller's account `$3`; where it yields none, the same
/// statement asks whose account that is, so that a miss costs no second round trip.
macro_rules! own_or_foreign {
    ($call:literal) => {
        concat!(
            "select own.*, owner.tenant_id as owner_tenant_id, owner.user_id as owner_user_id from (select) as one left join ",
            $call,
            " own on true left join lateral account_owner(case when own.id is null then $3 end) owner on true"
        )
    };
}

impl Db {
    /// The caller's enabled accounts, newest first.
    ///
    /// # Errors
    /// [`Error::Internal`] when PostgreSQL fails; so it is with all methods here.
    pub async fn list_accounts(&self, scope: &Scope, limit: i64, offset: i64) -> Result<Page, Error> {
        let rows = self
            .query(
                Access::Read,
                scope,
                "select total, (account).* from list_accounts($1, $2, $3, $4)",
                &[(&limit, Type::INT8), (&offset, Type::INT8)],
            )
            .await?;
        let total =
            rows.first().ok_or_else(|| Error::internal(anyhow!("list_accounts gave no row")))?.try_get("total")?;
        // A page without accounts is one row that has only the total.
        let accounts = rows.iter().filter_map(|row| account(row).transpose()).collect::<Result<_, _>>()?;
        Ok(Page { accounts, total })
    }

    /// One account.
    ///
    /// # Errors
    /// See [`Db::list_accounts`].
    pub async fn find_account(&self, scope: &Scope, id: AccountId) -> Result<Found, Error> {
        let rows = self
            .query(Access::Read, scope, own_or_foreign!("find_account($1, $2, $3)"), &[(&id.0, Type::UUID)])
            .await?;
        found(&rows)
    }

    /// Stores a new account and its credential, both or neither.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the caller has an enabled account with that address.
    pub async fn insert_account(&self, scope: &Scope, new: &NewAccount) -> Result<Account, Error> {
        let credential = Credential::new(&new.password)?;
        let (hash, salt) = (credential.hash_hex(), credential.salt_hex());
        let rows = self
            .query(
                Access::Write,
                scope,
                "select * from insert_account($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)",
                &[
                    (&Uuid::now_v7(), Type::UUID),
                    (&new.account_name.0, Type::TEXT),
                    (&new.email_address.0, Type::TEXT),
                    (&new.protocol.0, Type::TEXT),
                    (&new.hostname.0, Type::TEXT),
                    (&new.port.0, Type::INT4),
                    (&new.encryption.0, Type::TEXT),
                    (&new.username.0, Type::TEXT),
                    (&new.is_sync_enabled, Type::BOOL),
                    (&new.sync_interval.0, Type::INT4),
                    (&Uuid::now_v7(), Type::UUID),
                    (&ALGORITHM, Type::TEXT),
                    (&hash, Type::TEXT),
                    (&salt, Type::TEXT),
                ],
            )
            .await?;
        let account = rows.first().map(account).transpose()?.flatten();
        account.ok_or_else(|| Error::internal(anyhow!("insert_account gave no account")))
    }

    /// Changes an account; a change that changes nothing writes nothing.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the caller has another enabled account with the new address.
    pub async fn update_account(&self, scope: &Scope, id: AccountId, change: &AccountChange) -> Result<Found, Error> {
        let credential = change.password.as_ref().map(Credential::new).transpose()?;
        let algorithm = credential.as_ref().map(|_| ALGORITHM);
        let (hash, salt) =
            (credential.as_ref().map(Credential::hash_hex), credential.as_ref().map(Credential::salt_hex));
        let rows = self
            .query(
                Access::Write,
                scope,
                own_or_foreign!(
                    "update_account($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"
                ),
                &[
                    (&id.0, Type::UUID),
                    (&change.account_name.as_ref().map(|v| &v.0), Type::TEXT),
                    (&change.email_address.as_ref().map(|v| &v.0), Type::TEXT),
                    (&change.protocol.map(|v| v.0), Type::TEXT),
                    (&change.hostname.as_ref().map(|v| &v.0), Type::TEXT),
                    (&change.port.map(|v| v.0), Type::INT4),
                    (&change.encryption.map(|v| v.0), Type::TEXT),
                    (&change.username.as_ref().map(|v| &v.0), Type::TEXT),
                    (&change.is_sync_enabled, Type::BOOL),
                    (&change.sync_interval.map(|v| v.0), Type::INT4),
                    (&change.is_enabled, Type::BOOL),
                    (&algorithm, Type::TEXT),
                    (&hash, Type::TEXT),
                    (&salt, Type::TEXT),
                ],
            )
            .await?;
        found(&rows)
    }

    /// Deletes an account softly: the row stays, disabled.
    ///
    /// # Errors
    /// See [`Db::list_accounts`].
    pub async fn disable_account(&self, scope: &Scope, id: AccountId) -> Result<Found, Error> {
        let rows = self
            .query(Access::Write, scope, own_or_foreign!("disable_account($1, $2, $3)"), &[(&id.0, Type::UUID)])
            .await?;
        found(&rows)
    }
}

fn found(rows: &[Row]) -> Result<Found, Error> {
    let row = rows.first().ok_or_else(|| Error::internal(anyhow!("a search gave no row")))?;
    if let Some(account) = account(row)? {
        return Ok(Found::Own(Box::new(account)));
    }
    match (row.try_get::<_, Option<Uuid>>("owner_tenant_id")?, row.try_get::<_, Option<Uuid>>("owner_user_id")?) {
        (Some(tenant), Some(user)) => Ok(Found::Foreign(Scope { tenant_id: TenantId(tenant), user_id: UserId(user) })),
        _ => Ok(Found::Nothing),
    }
}

/// The row's account; `None` in a row that an outer join filled with nulls.
fn account(row: &Row) -> Result<Option<Account>, tokio_postgres::Error> {
    let Some(id) = row.try_get::<_, Option<Uuid>>("id")? else { return Ok(None) };
    Ok(Some(Account {
        id: AccountId(id),
        tenant_id: TenantId(row.try_get("tenant_id")?),
        user_id: UserId(row.try_get("user_id")?),
        account_name: row.try_get("account_name")?,
        email_address: row.try_get("email_address")?,
        protocol: row.try_get("protocol")?,
        hostname: row.try_get("hostname")?,
        port: row.try_get("port")?,
        encryption: row.try_get("encryption")?,
        username: row.try_get("username")?,
        credential_id: CredentialId(row.try_get("credential_id")?),
        is_sync_enabled: row.try_get("is_sync_enabled")?,
        sync_interval: row.try_get("sync_interval")?,
        last_sync_at: row.try_get("last_sync_at")?,
        is_syncing: row.try_get("is_syncing")?,
        is_enabled: row.try_get("is_enabled")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    }))
}
