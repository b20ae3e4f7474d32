//! GET /api/accounts/{id}/folders: the folders of a mailbox. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve(list_folders::handler).await
}
