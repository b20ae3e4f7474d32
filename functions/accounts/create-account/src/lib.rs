//! `POST /api/accounts`: registers a mailbox of the caller.

use std::sync::Arc;

use shared::account::NewAccount;
use shared::http::StatusCode;
use shared::sealing::PublicKey;
use shared::{Call, Error, Reply};

/// The path of this endpoint.
const COLLECTION: &str = "/api/accounts";

/// Answers one request.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the body, [`Error::Conflict`] when the caller has an account with that
/// address, or as many accounts as a user can have.
pub async fn handler(call: Call, key: Arc<PublicKey>) -> Result<Reply, Error> {
    let new = NewAccount::read(call.body()?)?;
    let account = call.db.insert_account(&call.identity.scope, &new, &key, call.accounts_per_user).await?;
    // Clients resolve it against the host alone, so a stage or a base path must stand in it, too.
    let base = call.request.base_of(COLLECTION);
    Reply::json(StatusCode::CREATED, &account)?.with_location(&format!("{base}{COLLECTION}/{}", account.id))
}
