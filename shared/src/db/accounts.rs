//! Queries on the accounts and their credentials. Each is one statement; the SQL of the functions that they call
//! is in `migrations/V3__account_functions.sql` and newer ones.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};
use uuid::Uuid;

use super::{Access, Db};
use crate::account::state::State;
use crate::account::{Account, AccountChange, AccountId, CredentialId, EmailAddress, LastError, NewAccount};
use crate::credential::{ALGORITHM, Credential, Password};
use crate::error::{ADDRESS_TAKEN, Error, NO_SUCH_ACCOUNT, NOT_YOURS, too_many_accounts};
use crate::idempotency::{Made, Once, conflict, is_replayed};
use crate::identity::{Scope, TenantId, UserId};
use crate::sealing::{Kind, Place, PublicKey, seal};

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
pub enum Found<T = Account> {
    /// The caller's own account.
    Own(Box<T>),
    /// An account of somebody else.
    Foreign(Scope),
    /// No account, or a deleted one.
    Nothing,
}

impl<T> Found<T> {
    /// The caller's own account.
    ///
    /// # Errors
    /// [`Error::Forbidden`] for somebody else's, which is also logged; [`Error::NotFound`] for none.
    pub fn own(self, caller: &Scope, id: AccountId) -> Result<T, Error> {
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
pub(super) use own_or_foreign;

impl Db {
    /// The caller's enabled accounts, all or those in one state, newest first.
    ///
    /// # Errors
    /// [`Error::Internal`] when PostgreSQL fails; so it is with all methods here.
    pub async fn list_accounts(
        &self,
        scope: &Scope,
        limit: i64,
        offset: i64,
        state: Option<State>,
    ) -> Result<Page, Error> {
        let rows = self
            .query(
                Access::Read,
                scope,
                "select total, (account).* from list_accounts($1, $2, $3, $4, $5)",
                &[(&limit, Type::INT8), (&offset, Type::INT8), (&state.map(State::as_str), Type::TEXT)],
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
        found(scope, &rows, account)
    }

    /// Stores a new account and its credential, both or neither; once for each key.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the caller has an enabled account with that address, or `most` enabled accounts. For those
    /// of a key see `is_replayed`.
    pub async fn create_account(
        &self,
        scope: &Scope,
        new: &NewAccount,
        seal_with: &PublicKey,
        most: i32,
        once: Option<&Once>,
    ) -> Result<Made<Account>, Error> {
        let id = AccountId(Uuid::now_v7());
        let (key_hash, fingerprint) = Once::hashes(once);
        let sealing = |kind, password| sealed(seal_with, Place { scope: *scope, account: id, kind }, password);
        let sealed_password = sealing(Kind::Password, &new.password)?;
        let sealed_smtp_password =
            new.smtp_password.as_ref().map(|password| sealing(Kind::SmtpPassword, password)).transpose()?;
        let credential = Credential::new(&new.password)?;
        let key = new.email_address.key();
        let (hash, salt) = (credential.hash_hex(), credential.salt_hex());
        let rows = self
            .query(
                Access::Write,
                scope,
                "select (own.account).*, own.claim, own.outcome
                 from create_account($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27) own",
                &[
                    (&id.0, Type::UUID),
                    (&new.account_name.0, Type::TEXT),
                    (&new.email_address.0, Type::TEXT),
                    (&key, Type::TEXT),
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
                    (&most, Type::INT4),
                    (&seal_with.id(), Type::TEXT),
                    (&sealed_password, Type::BYTEA),
                    (&sealed_smtp_password, Type::BYTEA),
                    (&new.smtp_hostname.as_ref().map(|v| &v.0), Type::TEXT),
                    (&new.smtp_port.map(|v| v.0), Type::INT4),
                    (&new.smtp_encryption.map(|v| v.0), Type::TEXT),
                    (&new.smtp_username.as_ref().map(|v| &v.0), Type::TEXT),
                    (&key_hash, Type::BYTEA),
                    (&fingerprint, Type::BYTEA),
                ],
            )
            .await?;
        let row = rows.first().ok_or_else(|| Error::internal(anyhow!("create_account gave no row")))?;
        let is_replayed = is_replayed(row)?;
        match row.try_get("outcome")? {
            "addressTaken" => Err(conflict(ADDRESS_TAKEN, is_replayed)),
            "tooMany" => Err(conflict(too_many_accounts(most), is_replayed)),
            _ => match account(row)? {
                Some(thing) => Ok(Made { thing, is_replayed }),
                None => Err(Error::internal(anyhow!("create_account gave a row of nulls"))),
            },
        }
    }

    /// Changes an account; a change that changes nothing writes nothing.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the caller has another enabled account with the new address.
    pub async fn update_account(
        &self,
        scope: &Scope,
        id: AccountId,
        change: &AccountChange,
        seal_with: &PublicKey,
    ) -> Result<Found, Error> {
        let sealing = |kind, password| sealed(seal_with, Place { scope: *scope, account: id, kind }, password);
        let sealed_password = change.password.as_ref().map(|password| sealing(Kind::Password, password)).transpose()?;
        let smtp_password = change.smtp_password.as_ref().and_then(Option::as_ref);
        let sealed_smtp_password = smtp_password.map(|password| sealing(Kind::SmtpPassword, password)).transpose()?;
        let smtp = smtp_changes(change)?;
        let credential = change.password.as_ref().map(Credential::new).transpose()?;
        let algorithm = credential.as_ref().map(|_| ALGORITHM);
        let (hash, salt) =
            (credential.as_ref().map(Credential::hash_hex), credential.as_ref().map(Credential::salt_hex));
        let key = change.email_address.as_ref().map(EmailAddress::key);
        let rows = self
            .query(
                Access::Write,
                scope,
                own_or_foreign!(
                    "change_account($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)"
                ),
                &[
                    (&id.0, Type::UUID),
                    (&change.account_name.as_ref().map(|v| &v.0), Type::TEXT),
                    (&change.email_address.as_ref().map(|v| &v.0), Type::TEXT),
                    (&key, Type::TEXT),
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
                    (&seal_with.id(), Type::TEXT),
                    (&sealed_password, Type::BYTEA),
                    (&sealed_smtp_password, Type::BYTEA),
                    (&smtp, Type::TEXT),
                ],
            )
            .await?;
        found(scope, &rows, account)
    }

    /// Deletes an account softly: the row stays, disabled.
    ///
    /// # Errors
    /// See [`Db::list_accounts`].
    pub async fn disable_account(&self, scope: &Scope, id: AccountId) -> Result<Found, Error> {
        let rows = self
            .query(Access::Write, scope, own_or_foreign!("disable_account($1, $2, $3)"), &[(&id.0, Type::UUID)])
            .await?;
        found(scope, &rows, account)
    }
}

fn sealed(key: &PublicKey, place: Place, password: &Password) -> Result<Vec<u8>, Error> {
    seal(key, &place, password.reveal().as_bytes()).map_err(Error::Internal)
}

/// The outgoing settings that change, as `update_account` takes them: a JSON object, in which a null takes one away.
/// The password itself is no part of it, only whether there is a new one; `None` where nothing changes.
fn smtp_changes(change: &AccountChange) -> Result<Option<String>, Error> {
    #[derive(Serialize)]
    struct Changes<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        hostname: Option<Option<&'a str>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<Option<i32>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        encryption: Option<Option<&'a str>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        username: Option<Option<&'a str>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        password: Option<()>,
    }
    let changes = Changes {
        hostname: change.smtp_hostname.as_ref().map(|v| v.as_ref().map(|v| v.0.as_str())),
        port: change.smtp_port.map(|v| v.map(|v| v.0)),
        encryption: change.smtp_encryption.map(|v| v.map(|v| v.0)),
        username: change.smtp_username.as_ref().map(|v| v.as_ref().map(|v| v.0.as_str())),
        password: change.smtp_password.as_ref().map(|_| ()),
    };
    let json = serde_json::to_string(&changes).map_err(Error::internal)?;
    Ok((json != "{}").then_some(json))
}

/// What a row of [`own_or_foreign`] says. An account whose owner is the caller was the caller's a moment ago, and
/// is gone: nobody is a stranger to himself.
pub(super) fn found<T>(
    caller: &Scope,
    rows: &[Row],
    read: impl Fn(&Row) -> Result<Option<T>, tokio_postgres::Error>,
) -> Result<Found<T>, Error> {
    let row = rows.first().ok_or_else(|| Error::internal(anyhow!("a search gave no row")))?;
    if let Some(own) = read(row)? {
        return Ok(Found::Own(Box::new(own)));
    }
    let owner = row.try_get::<_, Option<Uuid>>("owner_tenant_id")?.zip(row.try_get("owner_user_id")?);
    let owner = owner.map(|(tenant, user)| Scope { tenant_id: TenantId(tenant), user_id: UserId(user) });
    Ok(owner.filter(|owner| owner != caller).map_or(Found::Nothing, Found::Foreign))
}

/// The row's account; `None` in a row that an outer join filled with nulls.
pub(super) fn account(row: &Row) -> Result<Option<Account>, tokio_postgres::Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut cells = Cells { row, next: 0 };
    let Some(id) = cells.get::<Option<Uuid>>("id")? else { return Ok(None) };
    // In the order of the table's columns.
    let mut account = Account {
        id: AccountId(id),
        tenant_id: TenantId(cells.get("tenant_id")?),
        user_id: UserId(cells.get("user_id")?),
        account_name: cells.get("account_name")?,
        email_address: cells.get("email_address")?,
        protocol: cells.get("protocol")?,
        hostname: cells.get("hostname")?,
        port: cells.get("port")?,
        encryption: cells.get("encryption")?,
        username: cells.get("username")?,
        credential_id: CredentialId(cells.get("credential_id")?),
        is_sync_enabled: cells.get("is_sync_enabled")?,
        sync_interval: cells.get("sync_interval")?,
        last_sync_at: cells.get("last_sync_at")?,
        is_syncing: false,
        is_enabled: cells.get("is_enabled")?,
        created_at: cells.get("created_at")?,
        updated_at: cells.get("updated_at")?,
        smtp_hostname: cells.get("smtp_hostname")?,
        smtp_port: cells.get("smtp_port")?,
        smtp_encryption: cells.get("smtp_encryption")?,
        smtp_username: cells.get("smtp_username")?,
        auth_type: cells.get("auth_type")?,
        provider: cells.get("provider")?,
        // The database's own check lets no other in.
        state: State::parse(cells.get("state")?).unwrap_or(State::CredentialsMissing),
        state_changed_at: 0,
        next_sync_at: None,
        last_error: None,
    };
    account.state_changed_at = cells.get::<Option<i64>>("state_changed_at")?.unwrap_or(account.updated_at);
    account.next_sync_at = cells.get("next_sync_at")?;
    if let Some(code) = cells.get("last_error_code")? {
        let (message, service) = (cells.get("last_error_message")?, cells.get("last_error_service")?);
        account.last_error = Some(LastError { code, message, service, at: cells.get("last_error_at")? });
    }
    if !account.is_sync_enabled && cells.get::<Option<i64>>("sync_requested_at")?.is_none() {
        account.next_sync_at = None;
    }
    let leased_until = cells.get::<Option<i64>>("leased_until")?.and_then(|until| u64::try_from(until).ok());
    account.is_syncing = leased_until.is_some_and(|until| Duration::from_millis(until) > now);
    Ok(Some(account))
}

/// A row whose values are read by name, mostly in the order in which they stand: each is looked for from where the last
/// one was. From the start each time, a list of a hundred accounts compares fifty thousand names.
struct Cells<'a> {
    row: &'a Row,
    next: usize,
}

impl<'a> Cells<'a> {
    fn get<T: FromSql<'a>>(&mut self, name: &str) -> Result<T, tokio_postgres::Error> {
        let columns = self.row.columns();
        let found = columns.iter().skip(self.next).position(|column| column.name() == name);
        match found.map(|steps| self.next + steps) {
            Some(index) => {
                self.next = index + 1;
                self.row.try_get(index)
            }
            None => self.row.try_get(name),
        }
    }
}
