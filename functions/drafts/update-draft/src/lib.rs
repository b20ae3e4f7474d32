//! `PUT /api/drafts/{id}`: puts another content into a draft, in the place of all that it had.

use shared::draft::DraftChange;
use shared::http::StatusCode;
use shared::{Call, Error, Reply, now};

/// Answers one request with the draft after the change.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the body, [`Error::NotFound`] where the caller has no such draft,
/// [`Error::Conflict`] where it has another version by now.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let id = call.draft_id()?;
    let change = DraftChange::read(call.composition_body()?, now())?;
    let draft = call.db.update_draft(&call.identity.scope, id, change.version, &change.composition).await?;
    Reply::json(StatusCode::OK, &draft)
}
