//! `GET /api/messages/{id}/attachments/{attachmentId}`: a file that hangs on a message, to be saved; a long one by a link
//! to the object store.

use mailbox::reading::Reader;
use mailbox::tokens::Way;
use shared::objects::ObjectStore;
use shared::{Error, MailCall, Reply};

/// Answers one request: 200, or 303 with a link of five minutes.
///
/// # Errors
/// As `get-message`; [`Error::NotFound`] where the message has no such attachment.
pub async fn handler(call: MailCall<Way>, objects: ObjectStore) -> Result<Reply, Error> {
    let id = call.request.path_parameters.get("attachmentId").unwrap_or_default();
    Reader::new(&call, &objects).await?.attachment(id).await
}
