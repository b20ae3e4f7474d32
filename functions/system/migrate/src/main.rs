//! Brings the database's schema up to date, on deployment. See the library beside this file.

use std::alloc::System;

use anyhow::anyhow;
use shared::lambda_runtime::{self, Error, service_fn};
use zeroizing_alloc::ZeroAlloc;

/// The private keys are made here, and logins set: whatever is freed is wiped first.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    shared::log::start(shared::config::PublicConfig::from_env()?.log_level);
    let service =
        service_fn(|event| async { migrate::handler(event).await.map_err(|error| Error::from(format!("{error:#}"))) });
    lambda_runtime::run(service).await.map_err(|error| anyhow!(error))
}
