//! Each minute: rings for the accounts that are due. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_due(schedule_work::handler).await
}
