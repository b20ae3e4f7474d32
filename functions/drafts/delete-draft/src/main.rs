//! DELETE /api/drafts/{id}: forgets a draft. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(delete_draft::handler).await
}
