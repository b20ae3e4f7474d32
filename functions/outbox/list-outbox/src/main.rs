//! GET /api/outbox: the messages that were to be sent. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(list_outbox::handler).await
}
