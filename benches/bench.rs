//! `cargo bench` cannot be an alias, so this passes it on to `xtask/src/bench.rs`, which is built for development
//! like the other commands there. What it measures are release builds.

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    // Cargo itself adds `--bench`.
    let options = std::env::args().skip(1).filter(|option| option != "--bench");
    let status = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--package", "xtask", "--", "bench"])
        .args(options)
        .status();
    if status.is_ok_and(|status| status.success()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
