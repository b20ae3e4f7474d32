//! `POST /api/drafts`: keeps what the caller writes.

use shared::composition::Composition;
use shared::http::StatusCode;
use shared::idempotency::Once;
use shared::{Call, Error, Reply, now};

/// The path of this endpoint.
const COLLECTION: &str = "/api/drafts";

/// Answers one request.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the body, [`Error::Conflict`] when the caller has as many drafts as a user can
/// have; what an `Idempotency-Key` adds to that.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    let mut fields = call.composition_body()?;
    let once = Once::read(&call.request, "POST /api/drafts", &fields)?;
    let composition = Composition::take(&mut fields, now());
    fields.finish()?;
    let made = call.db.create_draft(&call.identity.scope, composition, once.as_ref()).await?;
    let base = call.request.base_of(COLLECTION);
    let reply = Reply::json(StatusCode::CREATED, &made.thing)?;
    Ok(reply.with_location(&format!("{base}{COLLECTION}/{}", made.thing.id))?.replayed(made.is_replayed))
}
