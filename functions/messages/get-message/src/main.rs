//! GET /api/messages/{id}: a message with what it shows. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_reading(mailbox::tokens::way, get_message::handler).await
}
