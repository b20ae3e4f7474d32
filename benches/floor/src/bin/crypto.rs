//! What sealing and opening a password, and verifying a token, cost by themselves, without a request around them.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use local::signing::SigningKey;
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
const SECRET: &str = "a signing key of the benchmark, long enough";
const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::HS256, Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];
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
    let mut figures = json!({ "seal": sealing, "open": opening });
    for algorithm in ALGORITHMS {
        let (authenticator, request) = caller(algorithm)?;
        // Keys that stay are not waited for.
        let identify = || authenticator.identify(&request).now_or_never().context("it waits")?.context("refused");
        figures[format!("{algorithm:?}")] = measure(rounds, identify)?;
    }
    println!("{figures}");
    Ok(())
}

/// Who checks tokens of this algorithm, and a request with one.
fn caller(algorithm: Algorithm) -> Result<(Authenticator, Request)> {
    let claims = json!({
        "tenant_id": Uuid::now_v7(), "user_id": Uuid::now_v7(), "role": "user", "iss": "https://issuer.example.com/",
        "aud": "email_service", "iat": 0, "exp": 4_102_444_800_u64,
    });
    let (token, pem) = match algorithm {
        Algorithm::HS256 => {
            let key = EncodingKey::from_secret(SECRET.as_bytes());
            (jsonwebtoken::encode(&Header::new(algorithm), &claims, &key)?, None)
        }
        _ => {
            let key = SigningKey::new(algorithm, "1")?;
            (key.sign(&claims)?, Some(key.pem().to_owned()))
        }
    };
    let config = Config::from_variables(move |name| match name {
        "DATABASE_URL" => Some("postgres://app:pw@localhost/db".to_owned()),
        "REDIS_URL" => Some("redis://localhost".to_owned()),
        "JWT_SECRET_KEY" => Some(SECRET.to_owned()),
        "JWT_ALGORITHM" => Some(format!("{algorithm:?}")),
        "JWT_PUBLIC_KEY" => pem.clone(),
        "JWT_ISSUER" => Some("https://issuer.example.com/".to_owned()),
        "JWT_AUDIENCE" => Some("email_service".to_owned()),
        _ => None,
    })?;
    let set = match &config.auth.keys {
        KeySource::Fixed(set) => KeySet::clone(set),
        _ => KeySet::of_secrets([SECRET]),
    };
    let headers = Pairs(vec![("authorization".to_owned(), format!("Bearer {token}"))]);
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
