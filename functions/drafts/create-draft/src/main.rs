//! POST /api/drafts: keeps what the caller writes. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(create_draft::handler).await
}
