//! POST /api/accounts/{id}/sync: asks for a synchronisation. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_ringing(request_sync::handler).await
}
