//! `POST /api/accounts`: registers a mailbox of the caller.

use std::sync::Arc;

use shared::account::NewAccount;
use shared::http::StatusCode;
use shared::idempotency::Once;
use shared::sealing::PublicKey;
use shared::{Call, Error, Reply};

/// The path of this endpoint.
const COLLECTION: &str = "/api/accounts";

/// Answers one request.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the body, [`Error::Conflict`] when the caller has an account with that
/// address, or as many accounts as a user can have; what an `Idempotency-Key` adds to that.
pub async fn handler(call: Call, key: Arc<PublicKey>) -> Result<Reply, Error> {
    let scope = call.identity.scope;
    let fields = call.body()?;
    let once = Once::read(&call.request, "POST /api/accounts", &fields)?;
    let new = NewAccount::read(fields)?;
    let made = call.db.create_account(&scope, &new, &key, call.accounts_per_user, once.as_ref()).await?;
    let (account, is_replayed) = (made.thing, made.is_replayed);
    // Clients resolve it against the host alone, so a stage or a base path must stand in it, too.
    let base = call.request.base_of(COLLECTION);
    let reply = Reply::json(StatusCode::CREATED, &account)?;
    Ok(reply.with_location(&format!("{base}{COLLECTION}/{}", account.id))?.replayed(is_replayed))
}
