//! `GET /api/messages/{id}/raw`: a message as it was sent, byte by byte; a long one by a link to the object store.

use mailbox::reading::Reader;
use mailbox::tokens::Way;
use shared::objects::ObjectStore;
use shared::{Error, MailCall, Reply};

/// Answers one request: 200, or 303 with a link of five minutes.
///
/// # Errors
/// As `get-message`; [`Error::Conflict`] for a message of more than 50 MB.
pub async fn handler(call: MailCall<Way>, objects: ObjectStore) -> Result<Reply, Error> {
    Reader::new(&call, &objects).await?.raw().await
}
