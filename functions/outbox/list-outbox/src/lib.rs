//! `GET /api/outbox`: the caller's outbox, newest first.

use serde::Serialize;
use shared::http::StatusCode;
use shared::outbox::{OutboxCursor, Outgoing};
use shared::validation::{parameter, whole_number};
use shared::{Call, Error, Reply};

/// The entries of a page that asks for no number.
pub const DEFAULT_LIMIT: i64 = 50;
/// The most entries of a page.
pub const MAX_LIMIT: i64 = 200;

/// Which page is asked for.
#[derive(Debug, PartialEq)]
pub struct Input {
    /// The most entries on a page, 1 to 200.
    pub limit: i64,
    /// Where the page before ended.
    pub cursor: Option<OutboxCursor>,
}

impl Input {
    /// Reads the query.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault.
    pub fn read(query: &[(String, String)]) -> Result<Self, Error> {
        match (whole_number(query, "limit", DEFAULT_LIMIT, 1..=MAX_LIMIT), parameter(query, "cursor")) {
            (Ok(limit), Ok(cursor)) => Ok(Self { limit, cursor }),
            (limit, cursor) => Err(Error::Invalid(limit.err().into_iter().chain(cursor.err()).collect())),
        }
    }
}

/// One page.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = OutboxList))]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// Newest first. What is large makes a page shorter.
    entries: Vec<Outgoing>,
    /// The `cursor` of the next page; none on the last one.
    #[cfg_attr(feature = "openapi", schema(required, value_type = Option<String>))]
    next_cursor: Option<OutboxCursor>,
}

/// Answers one request.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the query.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let Input { limit, cursor } = Input::read(&call.request.query)?;
    let page = call.db.list_outgoing(&call.identity.scope, limit, cursor).await?;
    Reply::json(StatusCode::OK, &Output { entries: page.entries, next_cursor: page.next })
}
