//! GET /api/accounts/{id}: one of the caller's accounts. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(get_account::handler).await
}
