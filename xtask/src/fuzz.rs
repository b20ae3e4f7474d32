//! `cargo fuzz-all`: hostile input for all that takes bytes from outside; see `fuzz/`.

use std::{
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use local::{build::build_binaries, workspace_root};

const TARGETS: [&str; 15] = [
    "autoconfig",
    "body",
    "config",
    "content",
    "event",
    "html",
    "imap",
    "imap-mailbox",
    "message",
    "pop3",
    "provider",
    "query",
    "smtp",
    "submission",
    "token",
];

/// The command line.
pub(crate) struct Options {
    targets: Vec<&'static str>,
    runs: u64,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { targets: TARGETS.to_vec(), runs: 2_000_000 };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--runs" => {
                    options.runs = arguments.next().and_then(|n| n.parse().ok()).context("--runs needs a number")?;
                }
                other => match TARGETS.iter().find(|target| **target == other) {
                    Some(target) => options.targets = vec![target],
                    None => bail!("unknown target {other}; there are {}", TARGETS.join(", ")),
                },
            }
        }
        Ok(options)
    }
}

/// Where a run keeps what made a target do something that no input before had made it do.
fn grown(target: &str) -> PathBuf {
    workspace_root().join("target/fuzz").join(target).join("corpus")
}

/// What the last run kept of a target's inputs, in an order that is always the same. Without such a run there is one now.
pub(crate) fn kept(target: &'static str) -> Result<Vec<Vec<u8>>> {
    let grown = grown(target);
    if !grown.exists() {
        run(&Options { targets: vec![target], runs: 10_000 })?;
    }
    let mut files = fs::read_dir(grown)?.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    files.into_iter().map(|file| Ok(fs::read(file)?)).collect()
}

/// Runs each target on its seeds and so many inputs made from them. What it finds on the way goes to `target/fuzz`.
pub(crate) fn run(options: &Options) -> Result<()> {
    // cargo-fuzz would compile every dependency a second time; `fuzz/rustc` has the flags that matter, for our crates.
    let wrapper = workspace_root().join("fuzz/rustc");
    let binaries = build_binaries(false, Some(&wrapper), TARGETS.map(|target| format!("fuzz-{target}")))?;
    let queue = Mutex::new(options.targets.iter());
    let next = || queue.lock().ok()?.next();
    // Each keeps one processor busy.
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        let work = || -> Result<()> {
            while let Some(target) = next() {
                run_target(&binaries, target, options.runs)?;
            }
            Ok(())
        };
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        running.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a target's thread panicked")))
    })
}

fn run_target(binaries: &Path, target: &str, runs: u64) -> Result<()> {
    let grown = grown(target);
    let found = grown.parent().unwrap_or(&grown);
    // What earlier runs found would make this one another.
    if grown.exists() {
        fs::remove_dir_all(&grown)?;
    }
    fs::create_dir_all(&grown)?;
    let mut command = Command::new(binaries.join(format!("fuzz-{target}")));
    // The same seed gives the same inputs, so a red run can be repeated.
    command.args(["-seed=1", "-max_len=4096", "-timeout=10", "-verbosity=0", "-print_final_stats=1"]);
    command.arg(format!("-runs={runs}")).arg(format!("-artifact_prefix={}/", found.display()));
    command.arg(&grown).arg(workspace_root().join("fuzz/corpus").join(target));
    let output = command.output().with_context(|| format!("cannot run fuzz-{target}"))?;
    // In one piece, for another target runs beside it.
    eprint!("{target}: {runs} inputs\n{}", String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "fuzz-{target} found something; the input is in {}", found.display());
    Ok(())
}
