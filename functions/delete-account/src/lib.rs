//! `DELETE /api/accounts/{id}`: a soft delete. The row stays, disabled; the address is free for a new account.

use serde::Serialize;
use shared::account::AccountId;
use shared::http::StatusCode;
use shared::{Call, Error, Reply};

#[derive(Serialize)]
struct Output {
    message: &'static str,
    id: AccountId,
}

/// Answers one request.
///
/// # Errors
/// [`Error::Forbidden`] for somebody else's account, [`Error::NotFound`] for none, and so the second time.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let (scope, id) = (call.identity.scope, call.account_id()?);
    call.db.disable_account(&scope, id).await?.own(&scope, id)?;
    Reply::json(StatusCode::OK, &Output { message: "Account deleted successfully", id })
}
