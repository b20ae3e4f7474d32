//! DELETE /api/outbox/{id}: takes a message back that is not on its way. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(cancel_outgoing::handler).await
}
