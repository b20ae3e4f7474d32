//! `DELETE /api/messages/{id}`: to the trash; from there, or with `permanent=true`, for good. On the mail server first.

use mailbox::actions::{Action, carry_out_one};
use mailbox::tokens::Way;
use shared::http::StatusCode;
use shared::validation::flag;
use shared::{Error, MailCall, Reply};
use tokio::time::Instant;

/// Answers one request with the message, in the trash, or as it was.
///
/// # Errors
/// [`Error::Invalid`] for a parameter that is neither true nor false, [`Error::NotFound`] for no message of the caller's;
/// [`Error::Conflict`] where there is no trash, or the server could only destroy others with it; [`Error::MailServer`] where
/// the mail host fails.
pub async fn handler(call: MailCall<Way>) -> Result<Reply, Error> {
    let started = Instant::now();
    let id = call.message_id()?;
    let is_permanent = flag(&call.request.query, "permanent").map_err(|fault| Error::Invalid(vec![fault]))?;
    let action = Action::Delete { is_permanent: is_permanent.unwrap_or_default() };
    let message = carry_out_one(&call, id, action, started).await?;
    Reply::json(StatusCode::OK, &message)
}
