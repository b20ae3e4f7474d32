//! POST /api/uploads: announces a file. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_uploads(create_upload::handler).await
}
