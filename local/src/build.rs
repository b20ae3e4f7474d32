//! Builds the functions.

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace_root;

/// Builds the functions' binaries with Cargo, whose progress goes to standard error; returns their directory.
pub fn build_functions<N: AsRef<str>>(release: bool, names: impl IntoIterator<Item = N>) -> Result<PathBuf> {
    build_binaries(release, None, names)
}

/// As [`build_functions`], for any binaries; `wrapper` stands before the compiler for our own crates.
pub fn build_binaries<N: AsRef<str>>(
    release: bool,
    wrapper: Option<&Path>,
    names: impl IntoIterator<Item = N>,
) -> Result<PathBuf> {
    let mut command = cargo_command(&["build", "--message-format=json-render-diagnostics"]);
    // For development the whole workspace selects the features, as in `cargo test --workspace` and `cargo run` for us: so
    // nothing is compiled twice. For release the functions do, as for a deployment.
    command.arg(if release { "--release" } else { "--workspace" });
    if let Some(wrapper) = wrapper {
        command.env("RUSTC_WORKSPACE_WRAPPER", wrapper);
    }
    for name in names {
        command.args(["--bin", name.as_ref()]);
    }
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo build")?;
    let stdout = child.stdout.take().context("cargo build has no output")?;
    let mut directory = None;
    for line in BufReader::new(stdout).lines() {
        // The messages tell where the binaries are, whichever way the target directory is configured.
        let message: Value = serde_json::from_str(&line?).unwrap_or_default();
        if let Some(executable) = message["executable"].as_str() {
            directory = Path::new(executable).parent().map(Path::to_path_buf);
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "cargo build failed, see above");
    directory.context("cargo build made no binary: are these packages functions?")
}

/// A command of the Cargo that runs us, in the workspace, so that a toolchain chosen by hand stays chosen.
pub fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root()).args(arguments);
    command
}
