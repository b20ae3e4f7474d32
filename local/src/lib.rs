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

/// What Lambda sets in every process of a function, beside its name and where it asks for events. The rights are nobody's.
const LAMBDA_ENV: [(&str, &str); 5] = [
    ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
    ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
    ("AWS_REGION", "us-east-1"),
    ("AWS_ACCESS_KEY_ID", "local"),
    ("AWS_SECRET_ACCESS_KEY", "local"),
];

/// The directory of the workspace's `Cargo.toml`.
pub fn workspace_root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}
