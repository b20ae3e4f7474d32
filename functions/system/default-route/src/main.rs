//! Everything that no other route takes: preflights, unknown paths, wrong methods. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_public(default_route::handler).await
}
