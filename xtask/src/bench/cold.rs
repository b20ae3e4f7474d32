//! From the start of a process to its first answer, beside a function that does nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use local::{environment::Environment, services::PgBouncer};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Bench, DATABASE, Row, Times, millis,
    requests::{Caller, Sent, account, seed},
};

/// What is run here.
pub(super) const BINARIES: [&str; 9] = [
    "floor",
    "hello-world",
    "get-account",
    "list-accounts",
    "update-account",
    "create-account",
    "delete-account",
    "health",
    "health-ready",
];

/// Of a quarter as many, the medians lay up to a tenth apart from run to run.
const ROUNDS: usize = 100;

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    bench.progress("cold starts");
    let caller = Caller::new()?;
    let id = seed(bench, &caller, 1).await?.first().copied();
    let unknown = Some(Uuid::now_v7());
    let functions = [
        ("get-account", caller.event("get-account", id, None)?),
        ("list-accounts", caller.event("list-accounts", None, None)?),
        ("update-account", caller.event("update-account", id, Some(json!({ "port": 1 })))?),
        // Refused by PostgreSQL after the first round, which takes as long.
        ("create-account", caller.event("create-account", None, Some(account("cold@example.com")))?),
        ("delete-account", caller.event("delete-account", unknown, None)?),
        ("health", caller.event("health", None, None)?),
        ("health-ready", caller.event("health-ready", None, None)?),
    ];
    let mut ours: Vec<Starts> = functions.iter().map(|_| Starts::default()).collect();
    let mut warm = bench.start("get-account", DATABASE)?;
    let get = Sent::by(bench, || warm.invoke(&functions[0].1)).await?;
    let get = get.event(&caller.params(&[json!({ "uuid": id })]));
    // Behind it, PostgreSQL's side of a connection is warm already.
    let bouncer = PgBouncer::start(&bench.postgres, 2)?;
    let mut bounced_env = bench.env(DATABASE);
    bounced_env.push(("DATABASE_URL".to_owned(), bouncer.reader_url(DATABASE)));
    let bounced = |binary: &str| Environment::start(&bench.binary(binary)?, &bounced_env);
    let (mut hello, mut floor, mut connect) = (Starts::default(), Starts::default(), Times::default());
    let (mut bounced_ours, mut bounced_floor, mut bounced_connect) =
        (Starts::default(), Starts::default(), Times::default());
    for _ in 0..bench.rounds(ROUNDS) {
        hello.time(bench.start("hello-world", DATABASE)?, b"{}")?;
        connect.0.push(connect_time(&floor.time(bench.start("floor", DATABASE)?, &get)?)?);
        bounced_connect.0.push(connect_time(&bounced_floor.time(bounced("floor")?, &get)?)?);
        bounced_ours.time(bounced("get-account")?, &functions[0].1)?;
        for ((function, event), starts) in functions.iter().zip(&mut ours) {
            starts.time(bench.start(function, DATABASE)?, event)?;
        }
    }
    let allowed = |connect: Duration| 1.5 * millis(hello.answered.median()) + millis(connect);
    let hello_world = |name: &str, ours: &Times, hello: &Times| {
        Row::beside(format!("cold {name} ÷ hello world"), "ms", millis(ours.median()), millis(hello.median()))
    };
    let mut rows = vec![
        Row::alone("cold: the floor's clients connect", "ms", millis(connect.median())),
        hello_world("floor, get: ready", &floor.ready, &hello.ready),
        hello_world("floor, get: answer", &floor.answered, &hello.answered),
    ];
    for ((function, _), starts) in functions.iter().zip(&ours) {
        let name = |what: &str| format!("{function}: {what}");
        let answered = millis(starts.answered.median());
        let connect = if *function == "health" { Duration::ZERO } else { connect.median() };
        rows.extend([
            hello_world(&name("ready"), &starts.ready, &hello.ready),
            hello_world(&name("answer"), &starts.answered, &hello.answered),
            Row::beside(format!("cold {}", name("answer ÷ allowed")), "ms", answered, allowed(connect)).at_most(1.0),
        ]);
    }
    let bounced = "cold through PgBouncer";
    let beside_floor = |name: &str, ours: &Starts, floor: &Starts| {
        Row::beside(
            format!("{name}, get-account: answer ÷ the floor's"),
            "ms",
            millis(ours.answered.median()),
            millis(floor.answered.median()),
        )
    };
    rows.extend([
        beside_floor("cold", &ours[0], &floor),
        Row::alone(format!("{bounced}: the floor's clients connect"), "ms", millis(bounced_connect.median())),
        beside_floor(bounced, &bounced_ours, &bounced_floor).at_most(1.1),
        Row::beside(
            format!("{bounced}, get-account: answer ÷ allowed"),
            "ms",
            millis(bounced_ours.answered.median()),
            allowed(bounced_connect.median()),
        ),
    ]);
    Ok(rows)
}

/// What the floor tells of its start.
fn connect_time(answer: &Value) -> Result<Duration> {
    let micros = answer["connectMicros"].as_u64().context("the floor does not tell how long it took to connect")?;
    Ok(Duration::from_micros(micros))
}

#[derive(Default)]
struct Starts {
    ready: Times,
    answered: Times,
}

impl Starts {
    fn time(&mut self, mut environment: Environment, event: &[u8]) -> Result<Value> {
        let answer = environment.invoke(event)?;
        let json = answer.json()?;
        ensure!(json["statusCode"].as_u64() < Some(500), "{json}");
        self.ready.0.push(environment.ready_after);
        self.answered.0.push(answer.since_start);
        Ok(json)
    }
}
