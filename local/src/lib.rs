//! The cloud on one machine, for the commands of `xtask` and for the tests: throw-away servers, a local API Gateway,
//! queues and schedules that read `template.yaml`, and the installation of what they need.

use std::path::{Path, PathBuf};

pub mod build;
pub mod certificates;
pub mod docker;
pub mod emulator;
pub mod environment;
pub mod event_sources;
pub mod gateway;
pub mod install;
pub mod mail_server;
pub mod name_server;
pub mod page;
pub mod provider;
pub mod services;
pub mod signing;
pub mod smtp_sink;
pub mod template;
pub mod tools;

/// The directory of the workspace's `Cargo.toml`.
pub fn workspace_root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}
