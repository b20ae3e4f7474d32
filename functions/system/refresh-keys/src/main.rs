//! Keeps an issuer's keys where the other functions can read them. See the library beside this file.

use std::sync::Arc;

use refresh_keys::Keeper;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let keeper = Arc::new(Keeper::from_env()?);
    shared::serve_schedule(move |_| {
        let keeper = keeper.clone();
        async move { keeper.refresh().await }
    })
    .await
}
