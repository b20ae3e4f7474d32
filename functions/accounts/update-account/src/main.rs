//! PUT /api/accounts/{id}: changes an account. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_sealing(update_account::handler).await
}
