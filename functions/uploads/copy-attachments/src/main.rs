//! POST /api/messages/{id}/uploads: makes uploads of a message's attachments. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_reading(mailbox::tokens::way, copy_attachments::handler).await
}
