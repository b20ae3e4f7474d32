//! `POST /api/messages/{id}/uploads`: makes uploads of a message's attachments, so that they go along with a forward without
//! a detour through the browser. The answer has them as a draft or a message to be sent names them.

use mailbox::reading::Reader;
use mailbox::tokens::Way;
use serde::Serialize;
use shared::composition::Attachment;
use shared::http::StatusCode;
use shared::objects::ObjectStore;
use shared::upload::AttachmentIds;
use shared::{Error, MailCall, Reply};

/// A body, as the reference has it.
#[cfg(feature = "openapi")]
#[derive(utoipa::ToSchema)]
#[schema(as = AttachmentChoice)]
#[schema(rename_all = "camelCase")]
pub struct Input {
    /// Which of the message's attachments; all of them where it is missing.
    #[schema(nullable = false, max_items = 100)]
    pub attachment_ids: Option<Vec<String>>,
}

/// What goes along.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = CopiedAttachments))]
pub struct Output {
    /// In the order of the message, or in that in which they were asked for.
    attachments: Vec<Attachment>,
}

/// Answers one request.
///
/// # Errors
/// As `get-message`; [`Error::Invalid`] where the message has no such attachment, or more than can be sent;
/// [`Error::Conflict`] when the caller has as many uploads as a user can have.
pub async fn handler(call: MailCall<Way>, objects: ObjectStore) -> Result<Reply, Error> {
    let mut fields = call.body()?;
    let ids = fields.optional::<AttachmentIds>("attachmentIds");
    fields.finish()?;
    let mut reader = Reader::new(&call, &objects).await?;
    let attachments = reader.copy_attachments(ids.as_ref().map(|ids| ids.0.as_slice())).await?;
    Reply::json(StatusCode::CREATED, &Output { attachments })
}
