//! The functions' memory over time.

use std::{collections::BTreeMap, fmt, fs, time::Duration};

use local::gateway::Gateway;
use tokio::time::sleep;

use super::{Run, lock};

const INTERVAL: Duration = Duration::from_secs(5);
/// Samples until a process counts as warmed up.
const WARM: usize = 6;
/// What a warm process may still grow by, in KiB: each reconnection fragments the heap a little.
const SLACK: u64 = 2048;
/// What it may grow by for each request, in bytes: lambda_runtime puts each trace id into the environment, and the C
/// library keeps every value that a variable ever had, 147 bytes for this one.
const TRACE_ID: u64 = 160;
/// No process answers a larger part of all requests.
const SHARE: u64 = 5;

/// Resident memory in KiB, of each process in turn.
#[derive(Default)]
pub(super) struct Memory(BTreeMap<(String, u32), Vec<u64>>);

impl Memory {
    pub(super) async fn watch(&mut self, run: &Run, gateway: &Gateway, functions: &[&str]) {
        while !run.is_over() {
            for function in functions {
                for pid in gateway.pids(function).unwrap_or_default() {
                    if let Some(size) = resident(pid) {
                        self.0.entry(((*function).to_owned(), pid)).or_default().push(size);
                    }
                }
            }
            sleep(INTERVAL).await;
        }
    }

    /// Processes that lived long: their size when they were warm, and the last.
    fn warm(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.0.iter().filter_map(|((function, _), sizes)| {
            let last = sizes.last().filter(|_| sizes.len() > 2 * WARM)?;
            Some((function.as_str(), *sizes.get(WARM)?, *last))
        })
    }

    pub(super) fn check(&self, run: &Run) {
        let answers: u64 = lock(&run.answers).values().sum();
        let allowed = SLACK + answers / SHARE * TRACE_ID / 1024;
        for (function, first, last) in self.warm() {
            if last > first + allowed {
                run.differs(format!("{function} grew from {first} to {last} KiB"));
            }
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (function, first, last) in self.warm() {
            write!(f, "\n{function:>16} {first} KiB warm, {last} KiB at the end")?;
        }
        Ok(())
    }
}

fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
