//! GET /api/messages/{id}/attachments/{attachmentId}: a file that hangs on a message. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_reading(mailbox::tokens::way, get_attachment::handler).await
}
