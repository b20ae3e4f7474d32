//! `DELETE /api/drafts/{id}`: forgets a draft. Its files go within a day, unless something else uses them.

use serde::Serialize;
use shared::draft::DraftId;
use shared::http::StatusCode;
use shared::{Call, Error, Reply};

/// The answer to a delete.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = DraftDeleted))]
pub struct Output {
    /// Always the same sentence.
    message: &'static str,
    /// What was deleted.
    id: DraftId,
}

/// Answers one request.
///
/// # Errors
/// [`Error::NotFound`] where the caller has no such draft, and so the second time.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let id = call.draft_id()?;
    call.db.delete_draft(&call.identity.scope, id).await?;
    Reply::json(StatusCode::OK, &Output { message: "Draft deleted successfully", id })
}
