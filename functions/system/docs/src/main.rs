//! GET /openapi.json and GET /docs: the reference. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_public(docs::handler).await
}
