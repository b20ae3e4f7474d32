//! Whether others use the machine. Looked at while nothing of ours runs.

use std::{fs, thread::sleep, time::Duration};

use anyhow::{Context, Result};

/// More than this share of the processors used by others is noise.
const QUIET: f64 = 0.05;

pub(super) struct Machine {
    pub(super) busiest: f64,
    processors: u64,
}

impl Machine {
    pub(super) fn new() -> Result<Self> {
        let mut machine = Self { busiest: 0.0, processors: 0 };
        machine.look()?;
        Ok(machine)
    }

    /// Compares the processors' idle time with the time that passes.
    pub(super) fn look(&mut self) -> Result<()> {
        // PostgreSQL finishes with the clients that have just gone.
        sleep(Duration::from_millis(300));
        let (idle, all) = times()?;
        sleep(Duration::from_millis(700));
        let (idle_after, all_after) = times()?;
        let busy = 1.0 - (idle_after - idle) as f64 / ((all_after - all) as f64).max(1.0);
        self.busiest = self.busiest.max(busy);
        self.processors = std::thread::available_parallelism()?.get() as u64;
        Ok(())
    }

    pub(super) fn noise(&self) -> Option<String> {
        (self.busiest > QUIET).then(|| {
            format!(
                "The machine was too noisy: others used up to {:.0} % of its {} processors. Repeat this on a quiet one.",
                self.busiest * 100.0,
                self.processors
            )
        })
    }

    /// The processor's name, and how many there are.
    pub(super) fn name(&self) -> String {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|pair| pair.1);
        format!("{} × {}", self.processors, model.unwrap_or(std::env::consts::ARCH))
    }
}

/// Idle time, and time in all, in ticks, since the machine started.
fn times() -> Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat").context("the benchmark needs Linux's /proc")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user.
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    Ok((ticks.iter().skip(3).take(2).sum(), ticks.iter().sum()))
}
