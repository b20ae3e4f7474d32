//! POST /api/outbox: puts a message into the outbox. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_sending(send_message::handler).await
}
