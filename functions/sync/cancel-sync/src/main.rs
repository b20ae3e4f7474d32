//! DELETE /api/accounts/{id}/sync: ends a synchronisation. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(cancel_sync::handler).await
}
