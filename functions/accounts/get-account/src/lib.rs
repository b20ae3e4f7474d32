//! `GET /api/accounts/{id}`: one of the caller's accounts.

use shared::http::StatusCode;
use shared::{Call, Error, Reply};

/// Answers one request.
///
/// # Errors
/// [`Error::Forbidden`] for somebody else's account, [`Error::NotFound`] for none.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let (scope, id) = (call.identity.scope, call.account_id()?);
    let account = call.db.find_account(&scope, id).await?.own(&scope, id)?;
    Reply::json(StatusCode::OK, &account)
}
