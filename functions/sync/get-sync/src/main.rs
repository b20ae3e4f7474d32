//! GET /api/accounts/{id}/sync: how a synchronisation stands. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(get_sync::handler).await
}
