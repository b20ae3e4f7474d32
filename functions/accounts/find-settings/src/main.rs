//! GET /api/autoconfig: finds the settings of an address. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_network(find_settings::finder, find_settings::handler).await
}
