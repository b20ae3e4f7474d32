//! What sealing and opening a password cost by themselves, without a request around them.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use shared::account::AccountId;
use shared::identity::{Scope, TenantId, UserId};
use shared::sealing::{Kind, Place, PrivateKeys, PublicKey, generate, open, seal};
use uuid::Uuid;

const PASSWORD: &[u8] = b"correct horse battery staple";
const UNCOUNTED: usize = 100;

/// Does each as often as the argument says, and prints the microseconds that it took.
fn main() -> Result<()> {
    let rounds: usize = std::env::args().nth(1).context("how often?")?.parse()?;
    let (public, private) = generate("bench")?;
    let public = PublicKey::parse(&public).context("no public key")?;
    let private = PrivateKeys::parse(&private).context("no private key")?;
    let place = Place {
        scope: Scope { tenant_id: TenantId(Uuid::now_v7()), user_id: UserId(Uuid::now_v7()) },
        account: AccountId(Uuid::now_v7()),
        kind: Kind::Password,
    };
    let sealed = seal(&public, &place, PASSWORD)?;
    let sealing = measure(rounds, || seal(&public, &place, PASSWORD))?;
    let opening = measure(rounds, || {
        let opened = open(&private, &place, &sealed)?;
        ensure!(*opened == PASSWORD, "another password");
        Ok(opened)
    })?;
    println!("{}", json!({ "seal": sealing, "open": opening }));
    Ok(())
}

fn measure<T>(rounds: usize, mut work: impl FnMut() -> Result<T>) -> Result<serde_json::Value> {
    for _ in 0..UNCOUNTED {
        work()?;
    }
    let mut times = Vec::with_capacity(rounds);
    let cpu_before = cpu_time()?;
    for _ in 0..rounds {
        let started = Instant::now();
        work()?;
        times.push(started.elapsed());
    }
    let cpu = (cpu_time()? - cpu_before) / u32::try_from(rounds)?;
    times.sort_unstable();
    let median = times.get(rounds / 2).context("no rounds")?;
    Ok(json!({ "median": micros(*median), "cpu": micros(cpu) }))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The processor time of the process, which has one thread.
fn cpu_time() -> Result<Duration> {
    let times = fs::read_to_string("/proc/self/schedstat")?;
    Ok(Duration::from_nanos(times.split(' ').next().context("an empty schedstat")?.parse()?))
}
