//! `DELETE /api/accounts/{id}/sync`: ends the synchronisation that is asked for or runs; the latter after its batch.

use serde::Serialize;
use shared::http::StatusCode;
use shared::sync::Status;
use shared::{Call, Error, Reply};

/// What is left of it.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = SyncCanceled))]
pub struct Output {
    /// Always `idle`.
    status: Status,
}

/// Answers one request, and likewise where there is nothing to end.
///
/// # Errors
/// [`Error::Forbidden`] for somebody else's account, [`Error::NotFound`] for none.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let (scope, id) = (call.identity.scope, call.account_id()?);
    call.db.cancel_sync(&scope, id).await?.own(&scope, id)?;
    Reply::json(StatusCode::OK, &Output { status: Status::Idle })
}
