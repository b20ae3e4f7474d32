//! DELETE /api/accounts/{id}: deletes an account softly. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(delete_account::handler).await
}
