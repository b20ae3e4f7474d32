//! GET /health: the process is alive. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_public(health::handler).await
}
