//! `GET /api/accounts/{id}/sync`: how the synchronisation of an account stands.

use shared::http::StatusCode;
use shared::{Call, Error, Reply};

/// Answers one request.
///
/// # Errors
/// [`Error::Forbidden`] for somebody else's account, [`Error::NotFound`] for none.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let (scope, id) = (call.identity.scope, call.account_id()?);
    let sync = call.db.find_sync(&scope, id).await?.own(&scope, id)?;
    Reply::json(StatusCode::OK, &sync)
}
