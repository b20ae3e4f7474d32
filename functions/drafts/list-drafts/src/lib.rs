//! `GET /api/drafts`: the caller's drafts, newest first.

use serde::Serialize;
use shared::draft::{Draft, DraftCursor};
use shared::http::StatusCode;
use shared::validation::{parameter, whole_number};
use shared::{Call, Error, Reply};

/// The drafts of a page that asks for no number.
pub const DEFAULT_LIMIT: i64 = 50;
/// The most drafts of a page. Large ones make it shorter.
pub const MAX_LIMIT: i64 = 200;

/// Which page is asked for.
#[derive(Debug, PartialEq)]
pub struct Input {
    /// The most drafts on a page, 1 to 200.
    pub limit: i64,
    /// Where the page before ended.
    pub cursor: Option<DraftCursor>,
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
#[cfg_attr(feature = "openapi", schema(as = DraftList))]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// Newest first.
    drafts: Vec<Draft>,
    /// The `cursor` of the next page; none on the last one.
    #[cfg_attr(feature = "openapi", schema(required, value_type = Option<String>))]
    next_cursor: Option<DraftCursor>,
}

/// Answers one request.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the query.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let Input { limit, cursor } = Input::read(&call.request.query)?;
    let page = call.db.list_drafts(&call.identity.scope, limit, cursor).await?;
    Reply::json(StatusCode::OK, &Output { drafts: page.drafts, next_cursor: page.next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_reported_at_once() {
        assert_eq!(Input::read(&[]).unwrap(), Input { limit: 50, cursor: None });
        let query = ["limit", "cursor"].map(|name| (name.to_owned(), "!".to_owned()));
        let Err(Error::Invalid(faults)) = Input::read(&query) else { panic!() };
        assert_eq!(faults.iter().map(|fault| &*fault.field).collect::<Vec<_>>(), ["limit", "cursor"]);
    }
}
