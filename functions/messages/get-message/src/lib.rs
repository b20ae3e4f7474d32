//! `GET /api/messages/{id}`: a message with its text, its HTML made harmless, and what hangs on it. Reading does not mark
//! as read. The first time it comes from its mail host, after that from the object store.

use mail::content::Content;
use mailbox::reading::Reader;
use mailbox::tokens::Way;
use serde::Serialize;
use shared::call::MAX_ANSWER_BYTES;
use shared::http::StatusCode;
use shared::message::Message;
use shared::objects::ObjectStore;
use shared::{Error, MailCall, Reply};

/// As a list shows it, and what it shows.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = OpenedMessage))]
pub struct Output {
    /// As a list shows it.
    #[serde(flatten)]
    message: Message,
    /// What it shows.
    #[serde(flatten)]
    content: Content,
}

/// Answers one request.
///
/// # Errors
/// [`Error::NotFound`] for a message that is not the caller's, or that its mailbox does not have any more,
/// [`Error::MailServer`] where the mail host fails, [`Error::TooManyRequests`] where it has refused the login less than a
/// minute ago.
pub async fn handler(call: MailCall<Way>, objects: ObjectStore) -> Result<Reply, Error> {
    let mut reader = Reader::new(&call, &objects).await?;
    let mut content = reader.open().await?.opened.content;
    // Only what was written to be so is as long as this, quote by quote: its HTML is left out.
    if may_be_long(&content) && json_len(&content)? > MAX_ANSWER_BYTES - ROOM {
        content.html = None;
        content.is_truncated = true;
    }
    Reply::json(StatusCode::OK, &Output { message: reader.message, content })
}

/// For the message beside its content: its lists of addresses are bounded where they are stored.
const ROOM: usize = 512 * 1024;

/// Most are so short that they need not be written to be measured: a byte of a text takes six at the most.
fn may_be_long(content: &Content) -> bool {
    const SHORT: usize = 256 * 1024;
    let texts = [&content.text, &content.html].into_iter().flatten().map(String::len).sum::<usize>();
    texts > SHORT || content.attachments.len() > 100
}

fn json_len(content: &Content) -> Result<usize, Error> {
    Ok(serde_json::to_vec(content).map_err(Error::internal)?.len())
}
