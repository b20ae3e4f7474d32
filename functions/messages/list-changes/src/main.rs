//! GET /api/changes: what has become of the caller's things since a cursor. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(list_changes::handler).await
}
