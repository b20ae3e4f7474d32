//! `PUT /api/messages/{id}`: changes what the body names, on the mail server first.

use mailbox::actions::{Action, carry_out_one};
use mailbox::tokens::Way;
use shared::http::StatusCode;
use shared::message::MessageChange;
use shared::{Error, MailCall, Reply};
use tokio::time::Instant;

/// Answers one request with the message after the change.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the body, and for a folder that is not the account's; [`Error::NotFound`] for no
/// message of the caller's; [`Error::Conflict`] where it cannot be moved; [`Error::MailServer`] where the mail host fails.
pub async fn handler(call: MailCall<Way>) -> Result<Reply, Error> {
    let started = Instant::now();
    let id = call.message_id()?;
    let change = MessageChange::read(call.body()?)?;
    let message = carry_out_one(&call, id, Action::Change(change), started).await?;
    Reply::json(StatusCode::OK, &message)
}
