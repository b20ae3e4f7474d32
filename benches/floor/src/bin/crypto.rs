//! What sealing and opening a password, and verifying a token, cost by themselves, without a request around them.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::Request;
use shared::account::AccountId;
use shared::auth::Authenticator;
use shared::config::{Config, KeySource};
use shared::event::Pairs;
use shared::identity::{Scope, TenantId, UserId};
use shared::issuer::Keys;
use shared::key_set::KeySet;
use shared::sealing::{Kind, Place, PrivateKeys, PublicKey, generate, open, seal};
use uuid::Uuid;

const PASSWORD: &[u8] = b"correct horse battery staple";
const UNCOUNTED: usize = 100;

/// A token, and the key that verifies it: a secret, or a public key in PEM.
#[derive(Deserialize)]
struct Signed {
    algorithm: String,
    token: String,
    key: String,
}

/// Does each as often as the first argument says, with the tokens of the second, and prints the microseconds that it took.
fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().context("how often?")?.parse()?;
    let tokens: Vec<Signed> = serde_json::from_str(&arguments.next().context("which tokens?")?)?;
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
    let mut figures = json!({ "seal": sealing, "open": opening });
    for signed in tokens {
        let name = signed.algorithm.clone();
        let (authenticator, request) = caller(signed)?;
        // Keys that stay are not waited for.
        let identify = || authenticator.identify(&request).now_or_never().context("it waits")?.context("refused");
        figures[name] = measure(rounds, identify)?;
    }
    println!("{figures}");
    Ok(())
}

/// Who checks this token, and a request with it.
fn caller(Signed { algorithm, token, key }: Signed) -> Result<(Authenticator, Request)> {
    let secret = key.clone();
    let config = Config::from_variables(move |name| match name {
        "DATABASE_URL" => Some("postgres://app:pw@localhost/db".to_owned()),
        "REDIS_URL" => Some("redis://localhost".to_owned()),
        "JWT_ALGORITHM" => Some(algorithm.clone()),
        "JWT_SECRET_KEY" if algorithm == "HS256" => Some(key.clone()),
        "JWT_PUBLIC_KEY" if algorithm != "HS256" => Some(key.clone()),
        "JWT_ISSUER" => Some("https://issuer.example.com/".to_owned()),
        "JWT_AUDIENCE" => Some("email_service".to_owned()),
        _ => None,
    })?;
    let set = match &config.auth.keys {
        KeySource::Fixed(set) => KeySet::clone(set),
        _ => KeySet::of_secrets([secret.as_str()]),
    };
    let headers = Pairs(vec![("authorization".to_owned(), format!("Bearer {}", token))]);
    Ok((Authenticator::new(&config.auth, Keys::fixed(set)), Request { headers, ..Request::default() }))
}

fn measure<T>(rounds: usize, mut work: impl FnMut() -> Result<T>) -> Result<Value> {
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
