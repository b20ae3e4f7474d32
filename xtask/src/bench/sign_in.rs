//! What cryptography costs by itself, and what passwords cost that can be used again: signing in with them to a real mail
//! server, beside a bare client that says the same.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use local::{
    environment::{Answer, Environment},
    mail_server::Dovecot,
    signing::SigningKey,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Bench, DATABASE, JWT_KEY, Row, Times, micros,
    requests::{Caller, PASSWORD, account, ensure_good},
};

const OPERATIONS: usize = 5000;
const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::HS256, Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];
const UNCOUNTED: usize = 40;
const ROUNDS: usize = 400;
/// A user may have hosts tried so often in a minute.
const TRIES_OF_A_USER: usize = 10;
/// The certificate is good for it, and nobody has to be asked where it is.
const HOST: &str = "127.0.0.1";
const MAILBOX: &str = "jane@mail.example";

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    bench.progress("cryptography");
    let mut rows = cryptography(bench)?;
    let server = Dovecot::start()?;
    server.add_user(MAILBOX, PASSWORD)?;
    let settings = settings(&server);
    let tries = bench.rounds(UNCOUNTED) + bench.rounds(ROUNDS);
    for function in ["test-settings", "test-account"] {
        bench.progress(&format!("sign-in: {function}"));
        let callers = (0..tries.div_ceil(TRIES_OF_A_USER)).map(|_| Caller::new()).collect::<Result<Vec<_>>>()?;
        let ids = create(bench, &callers, &settings)?;
        let event = |n: usize| {
            let (caller, id) = (&callers[n / TRIES_OF_A_USER], ids[n / TRIES_OF_A_USER]);
            match function {
                "test-settings" => caller.event(function, None, Some(settings.clone())),
                _ => caller.event(function, Some(id), Some(json!({}))),
            }
        };
        rows.extend(compare(bench, &server, function, event)?);
    }
    Ok(rows)
}

/// In a process of its own, which is built for release.
fn cryptography(bench: &Bench) -> Result<Vec<Row>> {
    let tokens = Value::from_iter(ALGORITHMS.map(signed).into_iter().collect::<Result<Vec<_>>>()?);
    let mut command = Command::new(bench.binary("crypto")?);
    let output = command.arg(bench.rounds(OPERATIONS).to_string()).arg(tokens.to_string()).output()?;
    ensure!(output.status.success(), "crypto: {}", String::from_utf8_lossy(&output.stderr));
    let figures: Value = serde_json::from_slice(&output.stdout)?;
    let mut rows = Vec::new();
    for (name, what) in [("seal", "a password is sealed"), ("open", "a password is opened")] {
        let figure = |kind: &str| figures[name][kind].as_f64().with_context(|| format!("{name} has no {kind}"));
        rows.push(Row::alone(format!("{what}: p50"), "µs", figure("median")?).at_most(200.0));
        rows.push(Row::alone(format!("{what}: CPU"), "µs", figure("cpu")?).at_most(200.0));
    }
    for name in ALGORITHMS.map(|algorithm| format!("{algorithm:?}")) {
        let figure = |kind: &str| figures[&name][kind].as_f64().with_context(|| format!("{name} has no {kind}"));
        rows.push(Row::alone(format!("a token of {name} is verified: p50"), "µs", figure("median")?));
        rows.push(Row::alone(format!("a token of {name} is verified: CPU"), "µs", figure("cpu")?));
    }
    Ok(rows)
}

/// A token of this algorithm, and the key that verifies it.
fn signed(algorithm: Algorithm) -> Result<Value> {
    let claims = json!({
        "tenant_id": Uuid::now_v7(), "user_id": Uuid::now_v7(), "role": "user", "iss": "https://issuer.example.com/",
        "aud": "email_service", "iat": 0, "exp": 4_102_444_800_u64,
    });
    let (token, key) = match algorithm {
        Algorithm::HS256 => {
            let secret = EncodingKey::from_secret(JWT_KEY.as_bytes());
            (jsonwebtoken::encode(&Header::new(algorithm), &claims, &secret)?, JWT_KEY.to_owned())
        }
        _ => {
            let pair = SigningKey::new(algorithm, "1")?;
            (pair.sign(&claims)?, pair.pem().to_owned())
        }
    };
    Ok(json!({ "algorithm": format!("{algorithm:?}"), "token": token, "key": key }))
}

fn settings(server: &Dovecot) -> Value {
    let mut settings = account(MAILBOX);
    settings["hostname"] = HOST.into();
    settings["port"] = server.ports().imaps.into();
    settings["username"] = MAILBOX.into();
    settings
}

/// An account for each caller, whose password is sealed as users' are.
fn create(bench: &Bench, callers: &[Caller], settings: &Value) -> Result<Vec<Uuid>> {
    let mut function = bench.start("create-account", DATABASE)?;
    let mut id_of_new = |caller: &Caller| {
        let answer = function.invoke(&caller.event("create-account", None, Some(settings.clone()))?)?;
        ensure_good(&answer)?;
        let account: Value = serde_json::from_str(answer.json()?["body"].as_str().context("no body")?)?;
        anyhow::Ok(account["id"].as_str().context("no id")?.parse()?)
    };
    callers.iter().map(&mut id_of_new).collect()
}

fn compare(
    bench: &Bench,
    server: &Dovecot,
    function: &str,
    event: impl Fn(usize) -> Result<Vec<u8>>,
) -> Result<Vec<Row>> {
    let mut env = bench.env(DATABASE);
    if function == "test-account" {
        env.extend(bench.sealing.mail_env(bench.postgres.mail_url(DATABASE)));
    }
    let words = [
        ("MAIL_PRIVATE_NETWORKS", "127.0.0.0/8".to_owned()),
        ("MAIL_PORTS", server.ports().imaps.to_string()),
        ("SSL_CERT_FILE", server.ca_file().display().to_string()),
    ];
    env.extend(words.map(|(name, value)| (name.to_owned(), value)));
    let mut ours = Environment::start(&bench.binary(function)?, &env)?;
    let mut floor = Environment::start(&bench.binary("mail-floor")?, &env)?;
    // What the function says to this server, which offers it in its greeting.
    let login = BASE64_STANDARD.encode(format!("\0{MAILBOX}\0{PASSWORD}"));
    let commands = [format!("a1 AUTHENTICATE PLAIN {login}"), "a2 LOGOUT".to_owned()];
    let said = json!({ "host": HOST, "port": server.ports().imaps, "commands": commands }).to_string();

    let (mut our_times, mut floor_times) = (Times::default(), Times::default());
    let mut cpu_before = Default::default();
    let (uncounted, rounds) = (bench.rounds(UNCOUNTED), bench.rounds(ROUNDS));
    for n in 0..uncounted + rounds {
        if n == uncounted {
            cpu_before = (ours.cpu_time()?, floor.cpu_time()?);
        }
        // Who went first last time goes second.
        let mut answer = None;
        if n % 2 == 0 {
            answer = Some(ours.invoke(&event(n)?)?);
        }
        let floor_answer = floor.invoke(said.as_bytes())?;
        let answer = answer.map_or_else(|| ours.invoke(&event(n)?), Ok)?;
        if n >= uncounted {
            our_times.0.push(answer.took);
            floor_times.0.push(floor_answer.took);
        }
        ensure_signed_in(&answer)?;
        let accepted = floor_answer.json()?["answers"].to_string();
        ensure!(accepted.starts_with("[\"a1 OK"), "the bare client was refused: {accepted}");
    }
    let cpu = |after, before| micros(after - before) / rounds as f64;
    let used = (cpu(ours.cpu_time()?, cpu_before.0), cpu(floor.cpu_time()?, cpu_before.1));
    let beside = |what: &str, ours, floor| Row::beside(format!("{function} ÷ bare client: {what}"), "µs", ours, floor);
    let p99 = (micros(our_times.percentile(99)), micros(floor_times.percentile(99)));
    Ok(vec![
        beside("p50", micros(our_times.median()), micros(floor_times.median())),
        beside("p99", p99.0, p99.1),
        beside("CPU", used.0, used.1),
        Row::alone(format!("peak memory {function}"), "MB", ours.peak_memory()? as f64 / 1e6).at_most(64.0),
    ])
}

fn ensure_signed_in(answer: &Answer) -> Result<()> {
    ensure_good(answer)?;
    let body = answer.json()?["body"].as_str().map(str::to_owned).context("no body")?;
    ensure!(body.starts_with("{\"success\":true"), "nobody signed in: {body}");
    Ok(())
}
