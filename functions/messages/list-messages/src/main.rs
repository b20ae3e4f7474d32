//! GET /api/messages: the caller's messages, newest first. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(list_messages::handler).await
}
