//! What a request costs, in heap allocations: a count that does not depend on how busy the machine is. Times are
//! `cargo bench`'s matter, and round trips are counted in `it/database.rs`.
//!
//! This program is the test, and also the function under test: the test starts it again with `FUNCTION` set, behind a
//! Lambda runtime API, and then every allocation of the process is counted, those of the runtime and of the clients'
//! connections included.

use std::env;

use anyhow::{Context, Result, bail, ensure};
use jsonwebtoken::{EncodingKey, Header};
use local::environment::Environment;
use local::services::{Postgres, Redis, secret};
use local::workspace_root;
use serde_json::{Value, json};
use shared::Call;
use tokio::runtime::Runtime;
use uuid::Uuid;

/// Allocations of a request from which a change may stray by [`TOLERANCE`] percent: more is a regression, less a
/// reason to write the new figure here.
const EXPECTED: [(&str, u64); 5] = [
    // It seals a password.
    ("create-account", 260),
    ("get-account", 194),
    // A page of thirty.
    ("list-accounts", 287),
    // It seals a new password.
    ("update-account", 246),
    ("delete-account", 190),
];
const TOLERANCE: u64 = 4;
/// Requests to each function; the first ones fill pools and caches.
const REQUESTS: usize = 30;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

fn main() -> Result<()> {
    match env::var("FUNCTION") {
        Ok(function) => serve(&function),
        Err(_) => check(),
    }
}

/// A function that says at each request how often the process has allocated so far.
fn serve(function: &str) -> Result<()> {
    let _profiler = dhat::Profiler::builder().testing().build();
    // As the functions do: see functions/*/*/src/main.rs.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match function {
            "create-account" => shared::serve_sealing(|call, key| counted(create_account::handler(call, key))).await,
            "get-account" => shared::serve(|call: Call| counted(get_account::handler(call))).await,
            "list-accounts" => shared::serve(|call: Call| counted(list_accounts::handler(call))).await,
            "update-account" => shared::serve_sealing(|call, key| counted(update_account::handler(call, key))).await,
            "delete-account" => shared::serve(|call: Call| counted(delete_account::handler(call))).await,
            other => bail!("no function {other}"),
        }
    })
}

fn counted<F>(handling: F) -> F {
    eprintln!("{}", dhat::HeapStats::get().total_blocks);
    handling
}

fn check() -> Result<()> {
    let (postgres, redis, key) = (Postgres::start()?, Redis::start()?, secret());
    Runtime::new()?.block_on(async {
        postgres.create_database("app").await?;
        migrate::apply(&postgres.owner_url("app"), &postgres.role_urls("app")).await
    })?;
    let claims = json!({ "tenant_id": Uuid::now_v7(), "user_id": Uuid::now_v7(), "exp": 4_102_444_800_u64 });
    let token = jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(key.as_bytes()))?;
    let environment = [
        ("DATABASE_URL", postgres.app_url("app")),
        ("REDIS_URL", redis.url()),
        ("JWT_SECRET_KEY", key),
        ("SEALING_PUBLIC_KEY", shared::sealing::generate("cost")?.0),
        ("RATE_LIMIT_PER_MINUTE", "100000".to_owned()),
    ];

    let mut ids = Vec::new();
    let mut strays = Vec::new();
    for (function, expected) in EXPECTED {
        let mut env = environment.clone().map(|(name, value)| (name.to_owned(), value)).to_vec();
        env.push(("FUNCTION".to_owned(), function.to_owned()));
        let mut process = Environment::start(&env::current_exe()?, &env)?;
        for n in 0..REQUESTS {
            let answer = process.invoke(&event(function, &token, ids.get(n), n)?)?.json()?;
            ensure!(answer["statusCode"].as_u64() < Some(300), "{function}: {answer}");
            if function == "create-account" {
                let account: Value = serde_json::from_str(answer["body"].as_str().context("no body")?)?;
                ids.push(account["id"].clone());
            }
        }
        let counts = process.end()?;
        let counts = counts.lines().map(str::parse).collect::<Result<Vec<u64>, _>>().context(counts.clone())?;
        ensure!(counts.len() == REQUESTS, "{function} counted {} requests", counts.len());
        // From one request to the next is one turn of the runtime's loop. An answer that came in two pieces costs a
        // few more, now and then: hence the median.
        let mut turns: Vec<u64> = counts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        turns.sort_unstable();
        let (least, median, most) = (turns[0], turns[turns.len() / 2], turns[turns.len() - 1]);
        println!("{function}: {median} allocations per request ({least} to {most}), expected {expected}");
        if median.abs_diff(expected) * 100 > expected * TOLERANCE {
            strays.push(function);
        }
    }
    ensure!(strays.is_empty(), "more than {TOLERANCE} % beside what is expected: {}", strays.join(", "));
    Ok(())
}

/// The function's event file, with this token and, where it asks for an account, this id.
fn event(function: &str, token: &str, id: Option<&Value>, n: usize) -> Result<Vec<u8>> {
    let file = std::fs::read_to_string(workspace_root().join(format!("tests/events/{function}.json")))?;
    let mut event: Value = serde_json::from_str(&file)?;
    event["headers"] = json!({ "authorization": format!("Bearer {token}"), "content-type": "application/json" });
    if let Some(id) = id {
        event["pathParameters"] = json!({ "id": id });
    }
    if function == "create-account" {
        let mut account: Value = serde_json::from_str(event["body"].as_str().context("the event has no body")?)?;
        account["emailAddress"] = format!("{n:04}@example.com").into();
        event["body"] = account.to_string().into();
    }
    if function == "update-account" {
        event["body"] = json!({ "port": 1 + n, "password": "correct horse battery staple" }).to_string().into();
    }
    Ok(event.to_string().into())
}
