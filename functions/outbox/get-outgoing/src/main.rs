//! GET /api/outbox/{id}: a message that was to be sent. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(get_outgoing::handler).await
}
