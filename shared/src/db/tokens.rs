//! Queries on tokens of providers, for workers that need one: whose turn it is to refresh it. Their role is
//! `email_service_mail`. The SQL of the functions that they call is in `migrations/V10__oauth2.sql`.
//!
//! A lease and no lock: a lock would be held over a call to the provider, and with it a connection of a pooler. Whoever
//! dies with the lease is waited for until it ends.

use std::time::Duration;

use anyhow::anyhow;
use tokio_postgres::types::Type;

use super::authorizations::milliseconds;
use super::{Access, Db};
use crate::account::CredentialId;
use crate::error::Error;
use crate::identity::Scope;

/// What a worker that needs an access token is to do.
#[derive(Debug)]
pub enum Turn {
    /// Use this access token.
    Fresh(Sealed),
    /// Ask the provider with this refresh token, and store what it gives or note why it gives nothing.
    Claimed(Sealed, Lease),
    /// Somebody else asks. Come again, with this.
    Wait(Since),
    /// Somebody else asked, and this came of it: a code of `lastError`.
    Failed(String),
    /// The account has no tokens.
    Missing,
}

/// A sealed token, and the version of the account's tokens that it is of.
#[derive(Debug)]
pub struct Sealed {
    /// The value.
    pub value: Vec<u8>,
    /// The version.
    pub version: i32,
}

/// The right to refresh, for a while.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    version: i32,
    until: i64,
}

/// When a worker began to wait, by the database's clock.
#[derive(Debug, Clone, Copy)]
pub struct Since(i64);

impl Db {
    /// Asks what is to be done. `refused` is the version of an access token that a mail server did not take; `since` is
    /// there when this was asked before. A lease ends after `lease`.
    ///
    /// # Errors
    /// [`Error::Internal`] when PostgreSQL fails; so it is with all methods here.
    pub async fn claim_token(
        &self,
        scope: &Scope,
        id: CredentialId,
        refused: Option<i32>,
        since: Option<Since>,
        lease: Duration,
    ) -> Result<Turn, Error> {
        let rows = self
            .query(
                Access::Write,
                scope,
                "select * from claim_token($1, $2, $3, $4, $5, $6)",
                &[
                    (&id.0, Type::UUID),
                    (&refused, Type::INT4),
                    (&since.map(|since| since.0), Type::INT8),
                    (&milliseconds(lease), Type::INT8),
                ],
            )
            .await?;
        let row = rows.first().ok_or_else(|| Error::internal(anyhow!("claim_token gave no row")))?;
        let sealed = || -> Result<Sealed, Error> {
            Ok(Sealed { value: row.try_get("sealed")?, version: row.try_get("version")? })
        };
        Ok(match row.try_get("what")? {
            "fresh" => Turn::Fresh(sealed()?),
            "claimed" => {
                let lease = Lease { version: row.try_get("version")?, until: row.try_get("lease_until")? };
                Turn::Claimed(sealed()?, lease)
            }
            "wait" => Turn::Wait(since.unwrap_or(Since(row.try_get("now")?))),
            "failed" => Turn::Failed(row.try_get("failure")?),
            _ => Turn::Missing,
        })
    }

    /// Stores what the provider gave; without a refresh token the old one stays. Says whether it did: not where the tokens
    /// are others meanwhile.
    ///
    /// # Errors
    /// See [`Db::claim_token`].
    pub async fn store_tokens(
        &self,
        scope: &Scope,
        id: CredentialId,
        lease: Lease,
        key: &str,
        access: (&[u8], Duration),
        refresh: Option<&[u8]>,
    ) -> Result<bool, Error> {
        let rows = self
            .query(
                Access::Write,
                scope,
                "select store_tokens($1, $2, $3, $4, $5, $6, $7, $8)",
                &[
                    (&id.0, Type::UUID),
                    (&lease.version, Type::INT4),
                    (&key, Type::TEXT),
                    (&access.0, Type::BYTEA),
                    (&milliseconds(access.1), Type::INT8),
                    (&refresh, Type::BYTEA),
                ],
            )
            .await?;
        let row = rows.first().ok_or_else(|| Error::internal(anyhow!("store_tokens gave no row")))?;
        Ok(row.try_get(0)?)
    }

    /// Ends a lease without tokens; `failure` is a code of `lastError`, for those who wait.
    ///
    /// # Errors
    /// See [`Db::claim_token`].
    pub async fn fail_refresh(
        &self,
        scope: &Scope,
        id: CredentialId,
        lease: Lease,
        failure: &str,
    ) -> Result<(), Error> {
        self.query(
            Access::Write,
            scope,
            "select fail_refresh($1, $2, $3, $4, $5, $6)",
            &[(&id.0, Type::UUID), (&lease.version, Type::INT4), (&lease.until, Type::INT8), (&failure, Type::TEXT)],
        )
        .await
        .map(drop)
    }
}
