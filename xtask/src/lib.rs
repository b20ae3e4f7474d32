//! The project's own tools, for the commands `cargo dev`, `cargo verify` and `cargo migrate`, and for the tests.

use std::path::{Path, PathBuf};

pub mod build;
pub mod environment;
pub mod gateway;
pub mod install;
pub mod services;
pub mod template;
pub mod tools;

/// The directory of the workspace's `Cargo.toml`.
pub fn workspace_root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}
