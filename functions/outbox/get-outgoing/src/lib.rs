//! `GET /api/outbox/{id}`: one entry of the caller's outbox.

use shared::http::StatusCode;
use shared::{Call, Error, Reply};

/// Answers one request.
///
/// # Errors
/// [`Error::NotFound`] where the caller has no such entry.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let outgoing = call.db.find_outgoing(&call.identity.scope, call.outgoing_id()?).await?;
    Reply::json(StatusCode::OK, &outgoing)
}
