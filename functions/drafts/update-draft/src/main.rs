//! PUT /api/drafts/{id}: puts another content into a draft. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(update_draft::handler).await
}
