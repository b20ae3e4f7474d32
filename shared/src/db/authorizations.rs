//! Queries on sign-ins with a provider, and on the accounts that they make. Their role is that of the endpoints, which writes
//! tokens and reads none. The SQL of the functions that they call is in `migrations/V10__oauth2.sql`.

use std::time::Duration;

use anyhow::anyhow;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::accounts::{Found, account, found};
use super::{Access, Db};
use crate::account::{Account, AccountId, EmailAddress};
use crate::authorization::State;
use crate::error::{Error, too_many_accounts};
use crate::identity::Scope;
use crate::sealing::{Kind, Place, PublicKey, seal};
use crate::secrets::SecretText;

/// How long a user may take at the provider.
pub const LIFETIME: Duration = Duration::from_secs(10 * 60);

/// What is kept of a sign-in that begins, beside its state.
#[derive(Debug)]
pub struct Beginning<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// Where the provider sends the page.
    pub redirect_uri: &'a str,
    /// The account that is to be reconnected.
    pub account: Option<AccountId>,
    /// The one address that will do for a new account.
    pub address: Option<&'a EmailAddress>,
}

/// A sign-in that has begun.
#[derive(Debug)]
pub struct Begun {
    /// When it ends: milliseconds since the Unix epoch.
    pub expires_at: i64,
    /// The address of the account that is to be reconnected.
    pub address: Option<String>,
    /// Whether the provider is to ask for consent although it has it.
    pub needs_consent: bool,
}

/// A sign-in whose state was used.
pub struct Taken {
    /// The provider's name.
    pub provider: String,
    /// As the provider was told.
    pub redirect_uri: String,
    /// The half of PKCE's verifier.
    pub verifier_half: Vec<u8>,
    /// The account that is to be reconnected.
    pub account: Option<AccountId>,
    /// The key of the one address that will do.
    pub address_key: Option<String>,
}

/// What a provider gave.
#[derive(Debug)]
pub struct Tokens<'a> {
    /// For new access tokens.
    pub refresh: &'a SecretText,
    /// For the mail servers.
    pub access: &'a SecretText,
    /// How long the access token is to be used.
    pub life: Duration,
}

/// A mail server of a provider.
#[derive(Debug, Clone, Copy)]
pub struct MailServer<'a> {
    /// Its name.
    pub hostname: &'a str,
    /// Its port.
    pub port: i32,
    /// `tls` or `starttls`.
    pub encryption: &'a str,
}

/// An account of a provider, as the provider has it.
#[derive(Debug)]
pub struct Connection<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// The address that was consented to.
    pub address: &'a EmailAddress,
    /// The server for reading.
    pub imap: MailServer<'a>,
    /// The server for sending.
    pub smtp: Option<MailServer<'a>>,
    /// All servers of the provider.
    pub hosts: &'a [&'a str],
    /// What it gave.
    pub tokens: Tokens<'a>,
}

/// What came of a reconnection.
#[derive(Debug)]
pub enum Reconnected {
    /// The account has the new tokens.
    Done(Box<Account>),
    /// The account has this address, which is another one. Nothing was changed.
    OtherAddress(String),
    /// The account was deleted meanwhile.
    Gone,
}

impl Db {
    /// Begins a sign-in.
    ///
    /// # Errors
    /// [`Error::Internal`] when PostgreSQL fails; so it is with all methods here.
    pub async fn start_authorization(
        &self,
        scope: &Scope,
        state: &State,
        half: &[u8],
        beginning: &Beginning<'_>,
    ) -> Result<Found<Begun>, Error> {
        let sql = "select own.*, owner.tenant_id as owner_tenant_id, owner.user_id as owner_user_id
                   from (select) as one left join start_authorization($1, $2, $3, $4, $5, $6, $7, $8, $9) own on true
                   left join lateral account_owner(case when own.expires_at is null then $7 end) owner on true";
        let rows = self
            .query(
                Access::Write,
                scope,
                sql,
                &[
                    (&state.hash().as_slice(), Type::BYTEA),
                    (&half, Type::BYTEA),
                    (&beginning.provider, Type::TEXT),
                    (&beginning.redirect_uri, Type::TEXT),
                    (&beginning.account.map(|id| id.0), Type::UUID),
                    (&beginning.address.map(EmailAddress::key), Type::TEXT),
                    (&milliseconds(LIFETIME), Type::INT8),
                ],
            )
            .await?;
        found(scope, &rows, |row| {
            let Some(expires_at) = row.try_get("expires_at")? else { return Ok(None) };
            Ok(Some(Begun {
                expires_at,
                address: row.try_get("address")?,
                needs_consent: row.try_get("needs_consent")?,
            }))
        })
    }

    /// Uses a state up; `None` where the caller has no such one.
    ///
    /// # Errors
    /// See [`Db::start_authorization`].
    pub async fn take_authorization(&self, scope: &Scope, state: &State) -> Result<Option<Taken>, Error> {
        let sql = "select * from take_authorization($1, $2, $3)";
        let rows = self.query(Access::Write, scope, sql, &[(&state.hash().as_slice(), Type::BYTEA)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Taken {
            provider: row.try_get("provider")?,
            redirect_uri: row.try_get("redirect_uri")?,
            verifier_half: row.try_get("verifier_half")?,
            account: row.try_get::<_, Option<Uuid>>("account_id")?.map(AccountId),
            address_key: row.try_get("address_key")?,
        }))
    }

    /// Notes that a provider gave no refresh token: the user's next sign-in with it asks for consent.
    ///
    /// # Errors
    /// See [`Db::start_authorization`].
    pub async fn note_lack_of_consent(&self, scope: &Scope, state: &State) -> Result<(), Error> {
        let sql = "select note_lack_of_consent($1, $2, $3)";
        self.query(Access::Write, scope, sql, &[(&state.hash().as_slice(), Type::BYTEA)]).await.map(drop)
    }

    /// Stores a new account that signs in with its provider's tokens.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the caller has an enabled account with that address, or `most` enabled accounts.
    pub async fn insert_connected_account(
        &self,
        scope: &Scope,
        name: &str,
        connection: &Connection<'_>,
        seal_with: &PublicKey,
        most: i32,
    ) -> Result<Account, Error> {
        let id = AccountId(Uuid::now_v7());
        let [refresh, access] = sealed(seal_with, scope, id, &connection.tokens)?;
        let Connection { provider, address, imap, smtp, .. } = connection;
        let rows = self
            .query(
                Access::Write,
                scope,
                "select * from insert_connected_account($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)",
                &[
                    (&id.0, Type::UUID),
                    (provider, Type::TEXT),
                    (&name, Type::TEXT),
                    (&address.0, Type::TEXT),
                    (&address.key(), Type::TEXT),
                    (&address.0, Type::TEXT),
                    (&most, Type::INT4),
                    (&imap.hostname, Type::TEXT),
                    (&imap.port, Type::INT4),
                    (&imap.encryption, Type::TEXT),
                    (&smtp.map(|smtp| smtp.hostname), Type::TEXT),
                    (&smtp.map(|smtp| smtp.port), Type::INT4),
                    (&smtp.map(|smtp| smtp.encryption), Type::TEXT),
                    (&Uuid::now_v7(), Type::UUID),
                    (&seal_with.id(), Type::TEXT),
                    (&refresh, Type::BYTEA),
                    (&access, Type::BYTEA),
                    (&milliseconds(connection.tokens.life), Type::INT8),
                ],
            )
            .await?;
        let account = rows.first().map(account).transpose()?.flatten();
        account.ok_or_else(|| Error::Conflict(too_many_accounts(most).into()))
    }

    /// Gives an account new tokens. It keeps its id and all that hangs on it.
    ///
    /// # Errors
    /// See [`Db::start_authorization`].
    pub async fn reconnect_account(
        &self,
        scope: &Scope,
        id: AccountId,
        connection: &Connection<'_>,
        seal_with: &PublicKey,
    ) -> Result<Reconnected, Error> {
        let [refresh, access] = sealed(seal_with, scope, id, &connection.tokens)?;
        let Connection { provider, address, imap, smtp, hosts, .. } = connection;
        let rows = self
            .query(
                Access::Write,
                scope,
                "select (own.account).*, own.matches
                 from reconnect_account($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) own",
                &[
                    (&id.0, Type::UUID),
                    (provider, Type::TEXT),
                    (&address.key(), Type::TEXT),
                    (&address.0, Type::TEXT),
                    (hosts, Type::TEXT_ARRAY),
                    (&imap.hostname, Type::TEXT),
                    (&imap.port, Type::INT4),
                    (&imap.encryption, Type::TEXT),
                    (&smtp.map(|smtp| smtp.hostname), Type::TEXT),
                    (&smtp.map(|smtp| smtp.port), Type::INT4),
                    (&smtp.map(|smtp| smtp.encryption), Type::TEXT),
                    (&seal_with.id(), Type::TEXT),
                    (&refresh, Type::BYTEA),
                    (&access, Type::BYTEA),
                    (&milliseconds(connection.tokens.life), Type::INT8),
                ],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(Reconnected::Gone) };
        let account = account(row)?.ok_or_else(|| Error::internal(anyhow!("reconnect_account gave a row of nulls")))?;
        match row.try_get("matches")? {
            true => Ok(Reconnected::Done(Box::new(account))),
            false => Ok(Reconnected::OtherAddress(account.email_address)),
        }
    }
}

/// The refresh token and the access token, sealed for one account.
fn sealed(key: &PublicKey, scope: &Scope, account: AccountId, tokens: &Tokens<'_>) -> Result<[Vec<u8>; 2], Error> {
    let one = |kind, token: &SecretText| {
        seal(key, &Place { scope: *scope, account, kind }, token.reveal().as_bytes()).map_err(Error::Internal)
    };
    Ok([one(Kind::RefreshToken, tokens.refresh)?, one(Kind::AccessToken, tokens.access)?])
}

/// As the database counts.
pub(super) fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
