//! `GET /api/drafts/{id}`: one draft, as it can be put back.

use shared::http::StatusCode;
use shared::{Call, Error, Reply};

/// Answers one request.
///
/// # Errors
/// [`Error::NotFound`] where the caller has no such draft.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let draft = call.db.find_draft(&call.identity.scope, call.draft_id()?).await?;
    Reply::json(StatusCode::OK, &draft)
}
