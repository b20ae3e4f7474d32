//! POST /api/accounts/{id}/test: tries what is stored. See the library beside this file.

use std::alloc::System;

use zeroizing_alloc::ZeroAlloc;

/// A password comes in with the event, and the runtime and the JSON parser leave copies of it behind: whatever is freed
/// is wiped first.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_tries(mailbox::tokens::way, test_account::handler).await
}
