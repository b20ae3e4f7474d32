//! Seals every stored secret with the current key, when a key is replaced. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_command(reseal_secrets::handler).await
}
