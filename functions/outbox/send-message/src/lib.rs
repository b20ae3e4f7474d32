//! `POST /api/outbox`: puts a message into the outbox, to be sent at once or later.

use std::time::Duration;

use shared::http::StatusCode;
use shared::idempotency::Once;
use shared::objects::ObjectStore;
use shared::outbox::{NewOutgoing, Outgoing, Status};
use shared::queue::LONGEST_DELAY;
use shared::{Call, Error, Reply, Sending, now};

/// The path of this endpoint.
const COLLECTION: &str = "/api/outbox";

/// Answers one request.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the body, [`Error::Conflict`] where the account cannot send or a file was never
/// put, [`Error::TooManyRequests`] where it has sent as much as it may in an hour; what an
/// `Idempotency-Key` adds to that.
pub async fn handler(call: Call, sending: Sending, objects: ObjectStore) -> Result<Reply, Error> {
    let fields = call.composition_body()?;
    let once = Once::read(&call.request, "POST /api/outbox", &fields)?;
    let new = NewOutgoing::read(fields, now())?;
    let scope = call.identity.scope;
    let missing = objects.missing_uploads(&scope, &new.composition.uploads()).await?;
    let made = call.db.insert_outgoing(&scope, &new, &missing, sending.limits, once.as_ref()).await?;
    let outgoing = made.thing;
    if let Some(wait) = wait(&outgoing, now())
        && !made.is_replayed
    {
        sending.queue.ring_after(scope, new.account_id, wait).await;
    }
    // As an account's.
    let base = call.request.base_of(COLLECTION);
    let reply = Reply::json(StatusCode::ACCEPTED, &outgoing)?;
    Ok(reply.with_location(&format!("{base}{COLLECTION}/{}", outgoing.id))?.replayed(made.is_replayed))
}

/// When the worker is to be rung for. What is to be sent later than the queue can keep a message back is the schedule's,
/// which comes once a minute.
fn wait(outgoing: &Outgoing, now: i64) -> Option<Duration> {
    let at = match outgoing.status {
        Status::Queued => now,
        Status::Scheduled => outgoing.composition.send_at?.0,
        _ => return None,
    };
    let wait = Duration::from_millis(u64::try_from(at.saturating_sub(now)).unwrap_or_default());
    Some(wait).filter(|wait| *wait <= LONGEST_DELAY)
}
