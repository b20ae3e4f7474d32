//! Seals every stored secret with the current key, when a key is replaced. See the library beside this file.

use std::alloc::System;

use zeroizing_alloc::ZeroAlloc;

/// Every stored password is opened here: whatever is freed is wiped first.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_command(reseal_secrets::handler).await
}
