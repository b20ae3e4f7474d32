//! PUT /api/messages/{id}: flags and folder of a message. See the library beside this file.

use std::alloc::System;

use zeroizing_alloc::ZeroAlloc;

/// A mailbox's password is opened here: whatever is freed is wiped first.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_mail(mailbox::tokens::way, update_message::handler).await
}
