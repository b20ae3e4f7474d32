//! GET /api/drafts/{id}: one draft. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(get_draft::handler).await
}
