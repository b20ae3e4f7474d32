//! GET /api/messages/{id}/attachments/{attachmentId}: a file that hangs on a message. See the library beside this file.

use std::alloc::System;

use zeroizing_alloc::ZeroAlloc;

/// A mailbox's password is opened here: whatever is freed is wiped first.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_reading(mailbox::tokens::way, get_attachment::handler).await
}
