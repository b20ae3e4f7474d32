//! GET /api/accounts: the caller's accounts, newest first. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(list_accounts::handler).await
}
