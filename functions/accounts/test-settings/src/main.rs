//! POST /api/accounts/test: tries settings that are not stored. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_network(mailbox::connector, test_settings::handler).await
}
