//! The query for what has changed. The SQL of the function that it calls is in `migrations/V14__search.sql`.

use anyhow::{Context, anyhow};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::{Access, Db};
use crate::account::AccountId;
use crate::change::{Change, Kind, Place, TOO_OLD, What, bad_cursor};
use crate::error::Error;
use crate::identity::Scope;

/// Some changes, and where their reader stands then.
#[derive(Debug)]
pub struct ChangePage {
    /// The oldest first.
    pub changes: Vec<Change>,
    /// Where the next ones begin.
    pub next: Place,
    /// Whether there are any by now.
    pub has_more: bool,
}

impl Db {
    /// What has become of the user's things since `since`, at most `limit` changes; without it none, and where all of them
    /// end.
    ///
    /// # Errors
    /// [`Error::Gone`] where some of it is forgotten, [`Error::Invalid`] where there never was such a place, and
    /// [`Error::Internal`] when PostgreSQL fails.
    pub async fn list_changes(&self, scope: &Scope, since: Option<Place>, limit: i64) -> Result<ChangePage, Error> {
        let rows = self
            .query(
                Access::Read,
                scope,
                "select last, forgotten, number, type, id, account_id, change from list_changes($1, $2, $3, $4, $5)",
                &[
                    (&since.map(|place| place.since), Type::INT8),
                    (&since.map(|place| place.known), Type::INT8),
                    // One more tells whether there are more.
                    (&(limit + 1), Type::INT8),
                ],
            )
            .await?;
        let first = rows.first().ok_or_else(|| Error::internal(anyhow!("list_changes returned no row")))?;
        let (last, forgotten): (i64, i64) = (first.try_get(0)?, first.try_get(1)?);
        let end = Place { since: last, known: last };
        let Some(since) = since else { return Ok(ChangePage { changes: Vec::new(), next: end, has_more: false }) };
        if since.since > last {
            return Err(bad_cursor());
        }
        if since.since < forgotten {
            return Err(Error::Gone(TOO_OLD));
        }
        let limit = usize::try_from(limit).unwrap_or_default();
        let mut changes = Vec::with_capacity(rows.len().min(limit));
        let mut next = since;
        for row in rows.iter().take(limit) {
            // Where there is no change, the one row has none.
            let Some(number) = row.try_get::<_, Option<i64>>(2)? else { break };
            next.since = number;
            changes.push(change(row)?);
        }
        let has_more = rows.len() > limit;
        Ok(ChangePage { changes, next: if has_more { next } else { end }, has_more })
    }
}

fn change(row: &Row) -> Result<Change, Error> {
    let (kind, what): (&str, &str) = (row.try_get(3)?, row.try_get(6)?);
    Ok(Change {
        kind: Kind::parse(kind).with_context(|| format!("no type of things: {kind}")).map_err(Error::Internal)?,
        id: row.try_get(4)?,
        account_id: AccountId(row.try_get(5)?),
        what: What::parse(what).with_context(|| format!("no change: {what}")).map_err(Error::Internal)?,
    })
}
