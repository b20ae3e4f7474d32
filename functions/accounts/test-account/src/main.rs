//! POST /api/accounts/{id}/test: tries what is stored. See the library beside this file.

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_mail(mailbox::connector, test_account::handler).await
}
