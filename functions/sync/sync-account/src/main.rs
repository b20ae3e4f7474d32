//! Works off the queue of synchronisation. See the library beside this file.

use std::alloc::System;

use zeroizing_alloc::ZeroAlloc;

/// Passwords are opened here, and libraries leave copies of them behind: whatever is freed is wiped first.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::work_mail(mailbox::connector, sync_account::handler).await
}
