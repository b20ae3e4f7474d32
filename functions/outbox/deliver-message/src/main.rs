//! Works off the queue of the outbox. See the library beside this file.

use std::alloc::System;

use mailbox::outbox::Files;
use shared::config::mail_bucket;
use shared::objects::ObjectStore;
use zeroizing_alloc::ZeroAlloc;

/// Passwords are opened here, and libraries leave copies of them behind: whatever is freed is wiped first.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let files = Files(Some(ObjectStore::new(mail_bucket()?)?));
    shared::work_outbox(mailbox::tokens::way, move |job| deliver_message::handler(job, files.clone())).await
}
