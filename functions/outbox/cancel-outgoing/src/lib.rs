//! `DELETE /api/outbox/{id}`: takes a message back that is not on its way.

use shared::db::outbox::Decided;
use shared::http::StatusCode;
use shared::outbox::Status;
use shared::{Call, Error, Reply};

/// Answers one request.
///
/// # Errors
/// [`Error::NotFound`] where the caller has no such entry, [`Error::Conflict`] where it is too late.
pub async fn handler(call: Call) -> Result<Reply, Error> {
    match call.db.cancel_outgoing(&call.identity.scope, call.outgoing_id()?).await? {
        Decided::Done(outgoing) => Reply::json(StatusCode::OK, &outgoing),
        Decided::Refused(status) => Err(Error::Conflict(too_late(status).into())),
    }
}

/// What a client learns of a message that cannot be taken back any more.
pub fn too_late(status: Status) -> String {
    format!("This message is {}: only what is scheduled or queued can be taken back.", status.as_str())
}
