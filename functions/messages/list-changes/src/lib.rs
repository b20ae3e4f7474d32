//! `GET /api/changes`: what has become of the caller's accounts, folders, messages and outbox since a cursor, in the order of the
//! changes.

use serde::Serialize;
use shared::change::{Change, Cursor, Place, bad_cursor};
use shared::http::StatusCode;
use shared::validation::{noted, parameter, whole_number};
use shared::{Call, Error, Reply};

/// The changes of an answer that asks for no number.
pub const DEFAULT_LIMIT: i64 = 200;
/// The most changes of an answer.
pub const MAX_LIMIT: i64 = 1000;

/// From where, and how many.
#[derive(Debug, PartialEq)]
pub struct Input {
    /// The most changes, 1 to 1000.
    pub limit: i64,
    /// Where the caller stands; nowhere yet, and he asks for a cursor to begin with.
    pub since: Option<Cursor>,
}

impl Input {
    /// Reads the query.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault.
    pub fn read(query: &[(String, String)]) -> Result<Self, Error> {
        let mut faults = Vec::new();
        let limit = whole_number(query, "limit", DEFAULT_LIMIT, 1..=MAX_LIMIT).map(Some);
        let input = Self {
            limit: noted(limit, &mut faults).unwrap_or(DEFAULT_LIMIT),
            since: noted(parameter(query, "since"), &mut faults),
        };
        if faults.is_empty() { Ok(input) } else { Err(Error::Invalid(faults)) }
    }
}

/// Some of them.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ChangeList))]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// The oldest first; each thing once, with its last change.
    changes: Vec<Change>,
    /// The `since` of the next request.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    cursor: Cursor,
    /// Whether there are more at once.
    has_more: bool,
}

/// Answers one request.
///
/// # Errors
/// [`Error::Invalid`] for a query that is at fault, or a cursor that the caller never got; [`Error::Gone`] for one that is
/// too old.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let Input { limit, since } = Input::read(&call.request.query)?;
    let scope = &call.identity.scope;
    let since: Option<Place> = since.map(|cursor| cursor.place(scope).ok_or_else(bad_cursor)).transpose()?;
    let page = call.db.list_changes(scope, since, limit).await?;
    let output = Output { changes: page.changes, cursor: page.next.cursor(scope), has_more: page.has_more };
    Reply::json(StatusCode::OK, &output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_reported_at_once() {
        assert_eq!(Input::read(&[]).unwrap(), Input { limit: 200, since: None });
        let bad = ["limit", "since"].map(|name| (name.to_owned(), "!".to_owned()));
        let Err(Error::Invalid(faults)) = Input::read(&bad) else { panic!() };
        assert_eq!(faults.iter().map(|fault| &*fault.field).collect::<Vec<_>>(), ["limit", "since"]);
    }
}
