//! POST /api/outbox/{id}/retry: tries a message again that has failed, or of which nobody knows. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_sending(retry_outgoing::handler).await
}
