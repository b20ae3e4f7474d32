//! A warm function beside the floor: time, processor time and memory.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use shared::change::Place;
use shared::identity::{Scope, TenantId, UserId};
use uuid::Uuid;

use super::{
    Bench, DATABASE, Row, Times, micros,
    requests::{Caller, PASSWORD, Sent, account, ensure_good, seed, seed_folders, seed_messages},
};

/// What is run here.
pub(super) const BINARIES: [&str; 12] = [
    "floor",
    "get-account",
    "list-accounts",
    "list-messages",
    "list-changes",
    "list-folders",
    "get-sync",
    "request-sync",
    "cancel-sync",
    "update-account",
    "create-account",
    "delete-account",
];

const UNCOUNTED: usize = 300;
const ROUNDS: usize = 2000;

type Make<'a, T> = Box<dyn Fn(usize) -> Result<T> + 'a>;

/// One endpoint: the n-th event for the function, and the parameters of the n-th statement for the floor.
struct Case<'a> {
    name: &'static str,
    function: &'static str,
    event: Make<'a, Vec<u8>>,
    params: Make<'a, Value>,
    /// Whether the targets of the issue are for this one.
    counts: bool,
}

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let caller = Caller::new()?;
    let own = seed(bench, &caller, 10).await?;
    seed_messages(bench, &caller, own[0], 5000).await?;
    let rich = Caller::new()?;
    let mailbox = seed(bench, &rich, 100).await?[0];
    seed_folders(bench, &rich, mailbox, 10).await?;
    let deleter = Caller::new()?;
    // Accounts for both sides to delete, and one more for the first look.
    let rounds = bench.rounds(UNCOUNTED) + bench.rounds(ROUNDS);
    let deleted = seed(bench, &deleter, 2 * rounds + 1).await?;
    // Of each a synchronisation is asked for, and then canceled: what is asked for again changes nothing.
    let asker = Caller::new()?;
    let asked = seed(bench, &asker, 2 * rounds).await?;
    // As many that none of them comes to the cap.
    let creators = (0..10).map(|_| Caller::new()).collect::<Result<Vec<_>>>()?;
    let creator = |n: usize| &creators[n % creators.len()];
    bench.owner(DATABASE).await?.batch_execute("vacuum analyze").await?;

    let (first, second) = (own[0], own[1]);
    // As long as a sealed password is.
    let sealed = "0".repeat(bench.sealing.seal(PASSWORD)?.len());
    let list = |caller: &Caller| caller.params(&[json!({"int8": 100}), json!({"int8": 0}), json!({"text": null})]);
    // An update's parameters: a new port, and a new password or none, sealed and hashed.
    let change = |n: usize, password: bool| {
        let given = |value: Value| if password { value } else { Value::Null };
        let mut params = vec![json!({ "uuid": second })];
        params.extend(["text"; 5].map(|kind| json!({ kind: null })));
        params.push(json!({ "int4": 1000 + n }));
        params.extend(["text", "text", "bool", "int4", "bool"].map(|kind| json!({ kind: null })));
        params.push(json!({ "text": given("sha512".into()) }));
        params.push(json!({ "text": given("0".repeat(128).into()) }));
        params.push(json!({ "text": given("0".repeat(64).into()) }));
        params.push(json!({ "text": "bench" }));
        params.push(json!({ "bytea": given(json!(sealed)) }));
        params.extend(["bytea", "text"].map(|kind| json!({ kind: null })));
        caller.params(&params)
    };
    let text = |text: &str| json!({ "text": text });
    let cases = [
        Case {
            name: "get",
            function: "get-account",
            event: Box::new(|_| caller.event("get-account", Some(first), None)),
            params: Box::new(|_| Ok(caller.params(&[json!({ "uuid": first })]))),
            counts: true,
        },
        Case {
            name: "list of 10",
            function: "list-accounts",
            event: Box::new(|_| caller.event("list-accounts", None, None)),
            params: Box::new(|_| Ok(list(&caller))),
            counts: true,
        },
        Case {
            name: "list of 100",
            function: "list-accounts",
            event: Box::new(|_| rich.event("list-accounts", None, None)),
            params: Box::new(|_| Ok(list(&rich))),
            counts: false,
        },
        Case {
            name: "list of 50 unread messages",
            function: "list-messages",
            event: Box::new(|_| caller.event("list-messages", None, None)),
            params: Box::new(|_| {
                let null = |kind: &str| json!({ kind: null });
                let mut params = vec![json!({"int8": 51})];
                params.extend(["uuid", "uuid", "text"].map(null));
                params.push(json!({"bool": false}));
                params.extend(["bool", "int8", "int8", "int8", "uuid", "uuid", "bool"].map(null));
                params.extend(["texts"; 5].map(null));
                Ok(caller.params(&params))
            }),
            counts: true,
        },
        Case {
            name: "50 changes",
            function: "list-changes",
            event: Box::new(|_| {
                let mut event: Value = serde_json::from_slice(&caller.event("list-changes", None, None)?)?;
                let scope = Scope { tenant_id: TenantId(caller.tenant), user_id: UserId(caller.user) };
                let since = serde_json::to_value(Place { since: 0, known: 0 }.cursor(&scope))?;
                event["rawQueryString"] = format!("limit=50&since={}", since.as_str().unwrap_or_default()).into();
                Ok(serde_json::to_vec(&event)?)
            }),
            params: Box::new(|_| Ok(caller.params(&[0, 0, 51].map(|number| json!({ "int8": number }))))),
            counts: true,
        },
        Case {
            name: "list of 10 folders",
            function: "list-folders",
            event: Box::new(|_| rich.event("list-folders", Some(mailbox), None)),
            params: Box::new(|_| Ok(rich.params(&[json!({ "uuid": mailbox })]))),
            counts: true,
        },
        Case {
            name: "get of a synchronisation",
            function: "get-sync",
            event: Box::new(|_| rich.event("get-sync", Some(mailbox), None)),
            params: Box::new(|_| Ok(rich.params(&[json!({ "uuid": mailbox })]))),
            counts: true,
        },
        Case {
            name: "request of a synchronisation",
            function: "request-sync",
            event: Box::new(|n| asker.event("request-sync", Some(asked[n]), None)),
            params: Box::new(|n| Ok(asker.params(&[json!({ "uuid": asked[rounds + n] })]))),
            counts: true,
        },
        Case {
            name: "cancel of a synchronisation",
            function: "cancel-sync",
            event: Box::new(|n| asker.event("cancel-sync", Some(asked[n]), None)),
            params: Box::new(|n| Ok(asker.params(&[json!({ "uuid": asked[rounds + n] })]))),
            counts: true,
        },
        Case {
            name: "update",
            function: "update-account",
            event: Box::new(|n| caller.event("update-account", Some(first), Some(json!({ "port": 1000 + n })))),
            params: Box::new(|n| Ok(change(n, false))),
            counts: true,
        },
        Case {
            name: "update with a new password",
            function: "update-account",
            event: Box::new(|n| {
                let body = json!({ "port": 1000 + n, "password": PASSWORD });
                caller.event("update-account", Some(first), Some(body))
            }),
            params: Box::new(|n| Ok(change(n, true))),
            counts: true,
        },
        Case {
            name: "create",
            function: "create-account",
            event: Box::new(|n| {
                creator(n).event("create-account", None, Some(account(&format!("{n}@ours.example.com"))))
            }),
            params: Box::new(|n| {
                let address = format!("{n}@floor.example.com");
                Ok(creator(n).params(&[
                    json!({ "uuid": Uuid::now_v7() }),
                    text("Work"),
                    text(&address),
                    text(&address),
                    text("imap"),
                    text("imap.example.com"),
                    json!({ "int4": 993 }),
                    text("tls"),
                    text("jane"),
                    json!({ "bool": true }),
                    json!({ "int4": 300 }),
                    json!({ "uuid": Uuid::now_v7() }),
                    text("sha512"),
                    text(&"0".repeat(128)),
                    text(&"0".repeat(64)),
                    json!({ "int4": 1000 }),
                    text("bench"),
                    json!({ "bytea": sealed }),
                    json!({ "bytea": null }),
                    json!({ "text": null }),
                    json!({ "int4": null }),
                    json!({ "text": null }),
                    json!({ "text": null }),
                    // No Idempotency-Key.
                    json!({ "bytea": null }),
                    json!({ "bytea": null }),
                ]))
            }),
            counts: true,
        },
        Case {
            name: "delete",
            function: "delete-account",
            event: Box::new(|n| deleter.event("delete-account", Some(deleted[n]), None)),
            params: Box::new(|n| Ok(deleter.params(&[json!({ "uuid": deleted[rounds + n] })]))),
            counts: true,
        },
    ];
    let mut rows = Vec::new();
    for case in &cases {
        bench.progress(&format!("warm: {}", case.name));
        rows.extend(compare(bench, case).await?);
    }
    Ok(rows)
}

async fn compare(bench: &Bench, case: &Case<'_>) -> Result<Vec<Row>> {
    let mut ours = bench.start(case.function, DATABASE)?;
    let mut floor = bench.start("floor", DATABASE)?;
    let sent = Sent::by(bench, || ours.invoke(&(case.event)(0)?)).await?;
    let (mut our_times, mut floor_times) = (Times::default(), Times::default());
    let (mut our_cpu, mut floor_cpu) = (Times::default(), Times::default());
    let mut used = (ours.cpu_time()?, floor.cpu_time()?);
    let (uncounted, rounds) = (bench.rounds(UNCOUNTED), bench.rounds(ROUNDS));
    for n in 1..uncounted + rounds {
        let (event, params) = ((case.event)(n)?, sent.event(&(case.params)(n)?));
        // Who went first last time goes second.
        let mut answer = None;
        if n % 2 == 0 {
            answer = Some(ours.invoke(&event)?);
        }
        let floor_answer = floor.invoke(&params)?;
        let answer = answer.map_or_else(|| ours.invoke(&event), Ok)?;
        let used_before = std::mem::replace(&mut used, (ours.cpu_time()?, floor.cpu_time()?));
        if n >= uncounted {
            our_times.0.push(answer.took);
            floor_times.0.push(floor_answer.took);
            our_cpu.0.push(used.0.saturating_sub(used_before.0));
            floor_cpu.0.push(used.1.saturating_sub(used_before.1));
        }
        ensure_good(&answer)?;
        ensure!(!floor_answer.body.starts_with(b"{\"rows\":0"), "the floor found nothing");
    }
    let name = case.name;
    let p50 = Row::beside(format!("warm {name}: p50"), "µs", micros(our_times.median()), micros(floor_times.median()));
    let p99 = (micros(our_times.percentile(99)), micros(floor_times.percentile(99)));
    let cpu = (micros(our_cpu.median()), micros(floor_cpu.median()));
    let cpu = Row::beside(format!("CPU per request {name}"), "µs", cpu.0, cpu.1);
    Ok(vec![
        if case.counts { p50.at_most(1.25) } else { p50 },
        Row::beside(format!("warm {name}: p99"), "µs", p99.0, p99.1),
        if name == "get" { cpu.at_most(1.3) } else { cpu },
        Row::alone(format!("peak memory {name}"), "MB", ours.peak_memory()? as f64 / 1e6).at_most(24.0),
    ])
}
