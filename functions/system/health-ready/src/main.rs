//! GET /health/ready: the service can do its work. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_readiness(health_ready::handler).await
}
