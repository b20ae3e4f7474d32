//! GET /api/drafts: the caller's drafts. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(list_drafts::handler).await
}
