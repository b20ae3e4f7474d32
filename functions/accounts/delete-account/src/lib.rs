//! `DELETE /api/accounts/{id}`: a soft delete. The row stays, disabled; the address is free for a new account.

use serde::Serialize;
use shared::account::AccountId;
use shared::http::StatusCode;
use shared::{Call, Error, Reply};

/// The answer to a delete.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Deleted))]
pub struct Output {
    /// Always the same sentence.
    message: &'static str,
    /// What was deleted.
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
