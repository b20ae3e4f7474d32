//! Queries on sealed secrets, and on what they are for: signing in. Their role is `email_service_mail`, the only one that
//! may read what is sealed. The SQL of the functions that they call is in `migrations/V6__sign_in.sql`, V8 and
//! `V10__oauth2.sql`.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rand::TryRng;
use rand::rngs::SysRng;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::accounts::{Found, account, found};
use super::{Access, Db};
use crate::account::state::{Event, Standing};
use crate::account::{Account, AccountId, CredentialId};
use crate::error::Error;
use crate::identity::{Scope, TenantId, UserId};
use crate::log::COUNTED;
use crate::quota::Quota;
use crate::sealing::{Kind, Place, key_id};

/// How long an account is left alone that the service fails to synchronise by its own fault: somebody has to mend that,
/// and until then each attempt makes a dead letter.
const GIVEN_UP_PAUSE: Duration = Duration::from_secs(60 * 60);
/// What its user reads. `begin_sync` in the migrations has the same words.
const GIVEN_UP: &str = "The service could not synchronise this account. It tries again in an hour.";

/// The sealed secrets of a credential. `Debug` shows their keys, and nothing that could be opened.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Sealed {
    /// The password for reading mail.
    pub password: Option<Vec<u8>>,
    /// The password for sending, where that is another one.
    pub smtp_password: Option<Vec<u8>>,
    /// A provider's refresh token. Only a search for all has the tokens: who needs one asks [`Db::claim_token`].
    pub refresh_token: Option<Vec<u8>>,
    /// A provider's access token.
    pub access_token: Option<Vec<u8>>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = |sealed: &Option<Vec<u8>>| sealed.as_deref().map(|sealed| key_id(sealed).map(str::to_owned));
        f.debug_struct("Sealed")
            .field("password", &key(&self.password))
            .field("smtp_password", &key(&self.smtp_password))
            .field("refresh_token", &key(&self.refresh_token))
            .field("access_token", &key(&self.access_token))
            .finish()
    }
}

/// An account with what it takes to sign in.
#[derive(Debug)]
pub struct Stored {
    /// The account.
    pub account: Account,
    /// Its secrets.
    pub sealed: Sealed,
    standing: Standing,
    settings_version: i32,
    wait: Duration,
}

impl Stored {
    /// Whether it is time for a try.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] where the server has refused what is stored less than a minute ago.
    pub fn check_turn(&self) -> Result<(), Error> {
        if self.wait.is_zero() {
            return Ok(());
        }
        Err(Error::TooManyRequests(Quota::of_refused_login(self.wait)))
    }
}

/// What went wrong in a try: code, message and service of `lastError`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault<'a> {
    /// See [`crate::account::LastError`].
    pub code: &'a str,
    /// For a person.
    pub message: &'a str,
    /// What was spoken.
    pub service: &'a str,
}

impl Db {
    /// An account that is about to be tried. `overrides` says that not only what is stored is tried: then nothing is
    /// noted.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] where the server has refused what is stored less than a minute ago,
    /// [`Error::Internal`] when PostgreSQL fails; so it is with all methods here.
    pub async fn begin_try(&self, scope: &Scope, id: AccountId, overrides: bool) -> Result<Found<Stored>, Error> {
        let sql = "select (own.account).*, own.sealed_password, own.sealed_smtp_password, own.wait,
                       owner.tenant_id as owner_tenant_id, owner.user_id as owner_user_id
                   from (select) as one left join begin_try($1, $2, $3, $4) own on true
                   left join lateral account_owner(case when (own.account).id is null then $3 end) owner on true";
        let rows = self.query(Access::Write, scope, sql, &[(&id.0, Type::UUID), (&overrides, Type::BOOL)]).await?;
        let found = found(scope, &rows, stored)?;
        if let Found::Own(stored) = &found {
            stored.check_turn()?;
        }
        Ok(found)
    }

    /// Notes what came of a try of what is stored. Nothing is noted of settings that were
    /// changed since it began.
    ///
    /// # Errors
    /// See [`Db::begin_try`].
    pub async fn record_try(
        &self,
        scope: &Scope,
        stored: &Stored,
        event: Event,
        fault: Option<Fault<'_>>,
    ) -> Result<(), Error> {
        let interval = Duration::from_secs(u64::try_from(stored.account.sync_interval).unwrap_or_default());
        let to = stored.standing.after(event, interval, chance()?);
        let pause = to.next_try.map(|pause| i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
        self.query(
            Access::Write,
            scope,
            "select record_try($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            &[
                (&stored.account.id.0, Type::UUID),
                (&stored.settings_version, Type::INT4),
                (&to.to.state.as_str(), Type::TEXT),
                (&i32::from(to.to.failures).min(i32::from(i16::MAX)), Type::INT4),
                (&pause, Type::INT8),
                (&fault.map(|fault| fault.code), Type::TEXT),
                (&fault.map(|fault| fault.message), Type::TEXT),
                (&fault.map(|fault| fault.service), Type::TEXT),
            ],
        )
        .await?;
        // The alarms accounts-refused and accounts-unreachable count these lines by their state.
        tracing::info!(
            target: COUNTED,
            accountId = %stored.account.id,
            hostname = stored.account.hostname,
            state = to.to.state.as_str(),
            fault = fault.map(|fault| fault.code),
            "account_tried"
        );
        Ok(())
    }

    /// Notes that the service itself fails to synchronise an account, which is then left alone for an hour.
    ///
    /// # Errors
    /// See [`Db::begin_try`].
    pub async fn give_up_sync(&self, scope: &Scope, id: AccountId) -> Result<(), Error> {
        let pause = i64::try_from(GIVEN_UP_PAUSE.as_millis()).unwrap_or(i64::MAX);
        let sql = "select give_up_sync($1, $2, $3, $4, $5)";
        let params = [(&id.0 as _, Type::UUID), (&pause as _, Type::INT8), (&GIVEN_UP as _, Type::TEXT)];
        self.query(Access::Write, scope, sql, &params).await.map(drop)
    }

    /// Where secrets are that are not sealed with the key `key`, in the order of their rows' ids, after one of them.
    /// They are of all tenants; of each, this says whose it is and nothing more.
    ///
    /// # Errors
    /// See [`Db::begin_try`].
    pub async fn secrets_to_reseal(
        &self,
        key: &str,
        after: Uuid,
        limit: i32,
    ) -> Result<Vec<(Place, CredentialId)>, Error> {
        let sql = "select * from secrets_to_reseal($1, $2, $3)";
        let rows =
            self.run(Access::Read, sql, &[(&key, Type::TEXT), (&after, Type::UUID), (&limit, Type::INT4)]).await?;
        let place = |row: &Row| -> Result<(Place, CredentialId), Error> {
            let scope =
                Scope { tenant_id: TenantId(row.try_get("tenant_id")?), user_id: UserId(row.try_get("user_id")?) };
            let place = Place { scope, account: AccountId(row.try_get("account_id")?), kind: Kind::Password };
            Ok((place, CredentialId(row.try_get("id")?)))
        };
        rows.iter().map(place).collect()
    }

    /// How many rows have a secret that is not sealed with the key `key`.
    ///
    /// # Errors
    /// See [`Db::begin_try`].
    pub async fn count_secrets_to_reseal(&self, key: &str) -> Result<i64, Error> {
        let rows = self.run(Access::Read, "select count_secrets_to_reseal($1)", &[(&key, Type::TEXT)]).await?;
        let row = rows.first().ok_or_else(|| Error::internal(anyhow!("a count gave no row")))?;
        Ok(row.try_get(0)?)
    }

    /// The secrets of a credential; none where it is gone.
    ///
    /// # Errors
    /// See [`Db::begin_try`].
    pub async fn find_sealed(&self, scope: &Scope, id: CredentialId) -> Result<Sealed, Error> {
        let sql = "select * from find_all_sealed($1, $2, $3)";
        let rows = self.query(Access::Read, scope, sql, &[(&id.0, Type::UUID)]).await?;
        let Some(row) = rows.first() else { return Ok(Sealed::default()) };
        let (refresh_token, access_token) = (row.try_get("sealed_refresh_token")?, row.try_get("sealed_access_token")?);
        Ok(Sealed { refresh_token, access_token, ..passwords(row)? })
    }

    /// Puts secrets that were sealed anew in the place of the old ones, unless those have changed meanwhile; says whether
    /// it did.
    ///
    /// # Errors
    /// See [`Db::begin_try`].
    pub async fn reseal(
        &self,
        scope: &Scope,
        id: CredentialId,
        key: &str,
        old: &Sealed,
        new: &Sealed,
    ) -> Result<bool, Error> {
        let rows = self
            .query(
                Access::Write,
                scope,
                "select reseal_all($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
                &[
                    (&id.0, Type::UUID),
                    (&key, Type::TEXT),
                    (&old.password, Type::BYTEA),
                    (&new.password, Type::BYTEA),
                    (&old.smtp_password, Type::BYTEA),
                    (&new.smtp_password, Type::BYTEA),
                    (&old.refresh_token, Type::BYTEA),
                    (&new.refresh_token, Type::BYTEA),
                    (&old.access_token, Type::BYTEA),
                    (&new.access_token, Type::BYTEA),
                ],
            )
            .await?;
        let row = rows.first().ok_or_else(|| Error::internal(anyhow!("reseal_all gave no row")))?;
        Ok(row.try_get(0)?)
    }
}

fn passwords(row: &Row) -> Result<Sealed, tokio_postgres::Error> {
    let (password, smtp_password) = (row.try_get("sealed_password")?, row.try_get("sealed_smtp_password")?);
    Ok(Sealed { password, smtp_password, ..Sealed::default() })
}

pub(super) fn stored(row: &Row) -> Result<Option<Stored>, tokio_postgres::Error> {
    let Some(account) = account(row)? else { return Ok(None) };
    let wait = Duration::from_millis(u64::try_from(row.try_get::<_, i64>("wait")?).unwrap_or_default());
    Ok(Some(Stored { wait, ..stored_with(row, account, passwords(row)?)? }))
}

/// Of a row with an account's columns.
pub(super) fn stored_with(row: &Row, account: Account, sealed: Sealed) -> Result<Stored, tokio_postgres::Error> {
    let failures: i16 = row.try_get("failures")?;
    Ok(Stored {
        standing: Standing { state: account.state, failures: u16::try_from(failures).unwrap_or_default() },
        settings_version: row.try_get("settings_version")?,
        wait: Duration::ZERO,
        sealed,
        account,
    })
}

/// A random number from 0 to 1, of the system's generator.
///
/// # Errors
/// The generator fails.
pub(super) fn chance() -> Result<f64, Error> {
    let number = SysRng.try_next_u32().context("the system's random generator failed").map_err(Error::Internal)?;
    Ok(f64::from(number) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_sealed_value() {
        let value = Some(b"\x01\x01\x02k1sealed".to_vec());
        let sealed = Sealed { password: value.clone(), access_token: value, ..Sealed::default() };
        let shown = r#"Sealed { password: Some(Some("k1")), smtp_password: None, refresh_token: None, access_token: Some(Some("k1")) }"#;
        assert_eq!(format!("{sealed:?}"), shown);
    }
}
