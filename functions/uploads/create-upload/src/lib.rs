//! `POST /api/uploads`: announces a file. The answer says how to put it straight into the object store.

use shared::http::StatusCode;
use shared::idempotency::Once;
use shared::objects::ObjectStore;
use shared::upload::NewUpload;
use shared::{Call, Error, Reply};

/// Answers one request.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the body, [`Error::Conflict`] when the caller has as many as a user can have;
/// what an `Idempotency-Key` adds to that.
pub async fn handler(call: Call, objects: ObjectStore) -> Result<Reply, Error> {
    let scope = call.identity.scope;
    let fields = call.body()?;
    let once = Once::read(&call.request, "POST /api/uploads", &fields)?;
    let new = NewUpload::read(fields)?;
    let made = call.db.create_upload(&scope, &new, once.as_ref()).await?;
    let link = objects.put_link(&scope, &made.thing, &new)?;
    Ok(Reply::json(StatusCode::CREATED, &link)?.replayed(made.is_replayed))
}
