//! POST /api/outbox: puts a message into the outbox. See the library beside this file.

use shared::config::mail_bucket;
use shared::objects::ObjectStore;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let objects = ObjectStore::new(mail_bucket()?)?;
    shared::serve_sending(move |call, sending| send_message::handler(call, sending, objects.clone())).await
}
