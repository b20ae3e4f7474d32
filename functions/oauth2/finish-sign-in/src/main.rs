//! POST /api/oauth2/accounts: ends a sign-in with a provider, with an account. See the library beside this file.

use std::alloc::System;

use zeroizing_alloc::ZeroAlloc;

/// Tokens come in from the provider, and a code with the event; the parsers leave copies of them behind: whatever is freed
/// is wiped first.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::serve_sign_in(mailbox::tokens::way, finish_sign_in::handler).await
}
