//! `PUT /api/accounts/{id}`: changes what the body names, and nothing else.

use std::sync::Arc;

use shared::account::AccountChange;
use shared::http::StatusCode;
use shared::sealing::PublicKey;
use shared::{Call, Error, Reply};

/// Answers one request with the account after the change.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the body, [`Error::Forbidden`] for somebody else's account,
/// [`Error::NotFound`] for none, [`Error::Conflict`] when another account of the caller has the new address.
pub async fn handler(call: Call, key: Arc<PublicKey>) -> Result<Reply, Error> {
    let (scope, id) = (call.identity.scope, call.account_id()?);
    let change = AccountChange::read(call.body()?)?;
    let account = call.db.update_account(&scope, id, &change, &key).await?.own(&scope, id)?;
    Reply::json(StatusCode::OK, &account)
}
