//! `POST /api/outbox/{id}/retry`: tries a message again that has failed, or of which nobody knows whether it was sent. In the
//! second case it may arrive twice, which is why only its user decides so.

use shared::db::outbox::Decided;
use shared::http::StatusCode;
use shared::outbox::Status;
use shared::{Call, Error, Reply, Sending};

/// Answers one request.
///
/// # Errors
/// [`Error::NotFound`] where the caller has no such entry, [`Error::Conflict`] where there is nothing to be tried again.
pub async fn handler(call: Call, sending: Sending) -> Result<Reply, Error> {
    let scope = call.identity.scope;
    match call.db.retry_outgoing(&scope, call.outgoing_id()?).await? {
        Decided::Done(outgoing) => {
            if let Some(account_id) = outgoing.composition.account_id {
                sending.queue.ring(scope, account_id).await;
            }
            Reply::json(StatusCode::ACCEPTED, &outgoing)
        }
        Decided::Refused(status) => Err(Error::Conflict(too_late(status).into())),
    }
}

/// What a client learns of a message for which there is nothing to be tried again.
pub fn too_late(status: Status) -> String {
    format!("This message is {}: only what is failed or uncertain can be tried again.", status.as_str())
}
