//! GET /api/messages/{id}/raw: a message as it was sent. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_reading(mailbox::tokens::way, get_raw_message::handler).await
}
