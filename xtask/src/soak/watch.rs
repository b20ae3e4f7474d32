//! The functions' memory and the servers' connections over time.

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
/// As the kernel calls it.
const ESTABLISHED: &str = "01";

/// What is watched: by name, the ports of servers.
pub(super) type Ports = Vec<(&'static str, Vec<u16>)>;

#[derive(Default)]
pub(super) struct Watch {
    /// Resident memory in KiB, of each process in turn.
    memory: BTreeMap<(String, u32), Vec<u64>>,
    /// The most connections to each server.
    most: BTreeMap<&'static str, usize>,
}

impl Watch {
    pub(super) async fn watch(&mut self, run: &Run, gateway: &Gateway, functions: &[&str], ports: &Ports) {
        while !run.is_over() {
            for function in functions {
                for pid in gateway.pids(function).unwrap_or_default() {
                    if let Some(size) = resident(pid) {
                        self.memory.entry(((*function).to_owned(), pid)).or_default().push(size);
                    }
                }
            }
            for (server, ports) in ports {
                let most = self.most.entry(server).or_default();
                *most = connections(ports).max(*most);
            }
            sleep(INTERVAL).await;
        }
    }

    /// Processes that lived long: their size when they were warm, and the last.
    fn warm(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.memory.iter().filter_map(|((function, _), sizes)| {
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

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut highest = BTreeMap::<&str, u64>::new();
        for ((function, _), sizes) in &self.memory {
            let size = highest.entry(function).or_default();
            *size = sizes.iter().copied().max().unwrap_or_default().max(*size);
        }
        for (function, size) in highest {
            write!(f, "\n{function:>18} {size:>6} KiB at most")?;
            for (_, first, last) in self.warm().filter(|(name, ..)| *name == function) {
                write!(f, ", {first} warm and {last} at the end")?;
            }
        }
        write!(f, "\nmost connections: {:?}", self.most)
    }
}

/// How many connections to these ports of this machine there are.
pub(super) fn connections(ports: &[u16]) -> usize {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let is_one = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().take(4).collect();
        let [_, local, _, state] = fields[..] else { return false };
        let port = local.split_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        state == ESTABLISHED && port.is_some_and(|port| ports.contains(&port))
    };
    table.lines().filter(is_one).count()
}

fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
