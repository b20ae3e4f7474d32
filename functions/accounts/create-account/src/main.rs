//! POST /api/accounts: registers a mailbox. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_sealing(create_account::handler).await
}
